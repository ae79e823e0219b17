"""Commands that run a model over images."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ..command import (
    EXIT_FAULT,
    Command,
    add_batch_size,
    add_detector,
    add_device,
    add_face_model,
    add_flag,
    add_inputs,
    add_layout,
    add_number,
    add_path,
    add_size,
    add_trust,
    chosen_size_hw,
)

if TYPE_CHECKING:
    from ..batch.showing import Window


def _add_model(parser: ArgumentParser, what: str, default: str | None = None) -> None:
    sentence = f"Checkpoint of {what}, or an exported file"
    if default is not None:
        sentence += f", or a name of 'mobilevision weights list'; by default {default}"
    required = default is None
    parser.add_argument("--model", metavar="MODEL", required=required, help=f"{sentence}.")


def _add_inputs(parser: ArgumentParser) -> None:
    sentence = "Images, videos, folders of them, patterns, URLs, streams (rtsp://...), a camera (0)"
    add_inputs(parser, f"{sentence}; Ctrl-C ends a stream.")
    sentence = "Show what is found in a window; closing it ends a stream"
    add_flag(parser, "--show", f"{sentence}, nothing else.")


def _window(arguments: Namespace) -> "Window | None":
    """Open the window of ``--show``."""
    if not arguments.show:
        return None
    from ..batch.showing import Window

    return Window()


def _end(window: "Window | None", faults: int) -> int:
    """Leave the last image on the screen until the window is closed; return the exit status."""
    if window is not None:
        window.wait()
    return EXIT_FAULT if faults else 0


def _add_run(parser: ArgumentParser, batch_size: int, size: bool = True) -> None:
    """Declare how the model runs."""
    add_batch_size(parser, batch_size)
    add_device(parser)
    if size:
        add_size(parser, "Input size of the network; that of training if not given.")
    add_trust(parser)


def _add_faces_of_images(parser: ArgumentParser, framed: str = "") -> None:
    """Declare which faces of the images are taken."""
    sentence = f"The images are aligned faces{framed}: do not search for faces."
    add_flag(parser, "--aligned", sentence)
    add_detector(parser)


def _tile_wh(text: str | None) -> tuple[int, int] | None:
    """Read ``640x480``, or one number for both; None stays None."""
    if text is None:
        return None
    from ...datasets.errors import DataError

    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise DataError(f"--tiles={text}: give width and height, such as 640x480, or one number")
    return int(sides[0]), int(sides[-1])


def _add_detect(parser: ArgumentParser) -> None:
    _add_inputs(parser)
    _add_model(parser, "a detector", "ssd_mobilenet_v1_0.75_coco_quant")
    add_path(parser, "--out", "Folder for the output.", "DIR", default=Path("runs/detect"))
    add_path(parser, "--results", "COCO results of the images; by default results.json in --out.")
    sentence = "COCO annotations of the images, which give the image ids and are measured against."
    add_path(parser, "--annotations", sentence)
    sentence = (
        "Minimum score that is drawn and counted; by default the best in the training's "
        "validation, else 0.5. The results keep lower ones."
    )
    parser.add_argument("--score-threshold", type=float, metavar="SCORE", help=sentence)
    sentence = (
        "Look for small objects in tiles of W x H pixels, by default the network's input size"
    )
    parser.add_argument("--tiles", nargs="?", const="0x0", metavar="WxH", help=f"{sentence}.")
    add_flag(parser, "--track", "Number the objects of videos from frame to frame.")
    _add_run(parser, 8)
    add_flag(parser, "--no-pictures", "Do not write annotated images and videos.")


def _detect(arguments: Namespace) -> int:
    from ..batch.detection import DetectOptions, detect

    window = _window(arguments)
    options = DetectOptions(
        arguments.out, arguments.score_threshold, arguments.batch_size, not arguments.no_pictures,
        window, _tile_wh(arguments.tiles), arguments.track,
    )  # fmt: skip
    tally = detect(
        arguments.inputs, arguments.model, options,
        arguments.results or arguments.out / "results.json",
        arguments.annotations, arguments.device, chosen_size_hw(arguments),
    )  # fmt: skip
    return _end(window, len(tally.faults))


def _add_embed(parser: ArgumentParser) -> None:
    _add_inputs(parser)
    add_face_model(parser)
    add = parser.add_argument
    sentence = "Table to write, .parquet or .csv; FILE.progress keeps what is done."
    add_path(parser, "--out", sentence, required=True)
    _add_faces_of_images(parser)
    sentence = "K augmented views of each face of a dataset, as in training; the first is plain."
    add("--views", type=int, metavar="K", help=sentence)
    add_layout(parser, "With --views: the dataset has aligned faces in folders, or is CelebA.")
    add("--parts", nargs="+", default=["train"], help="With --views, of CelebA: train, val, test.")
    add_path(parser, "--landmarks", "With --views: landmarks of data find-faces.")
    add("--seed", type=int, default=0, help="With --views: seed of the views.")
    add("--size", type=int, metavar="PX", help="Side of the aligned faces; as in training.")
    _add_run(parser, 16, size=False)


def _embed(arguments: Namespace) -> int:
    from ..batch.faces import Views, embed

    views = None
    if arguments.views is not None:
        views = Views(
            arguments.views, arguments.layout, arguments.parts, arguments.landmarks, arguments.seed
        )
    window = _window(arguments)
    counts = embed(
        arguments.inputs, arguments.model, arguments.out, arguments.aligned, arguments.faces,
        views, arguments.batch_size, arguments.device, arguments.size, window, arguments.detector,
    )  # fmt: skip
    return _end(window, counts.faults)


def _add_classify(parser: ArgumentParser) -> None:
    _add_inputs(parser)
    _add_model(parser, "a classifier", "mobilenet_v1_1.0_224")
    sentence = "Table to write, .csv or .parquet; FILE.progress keeps what is done."
    add_path(parser, "--out", f"{sentence} By default the table is printed.")
    add_number(parser, "--top", 5, "Number of classes of each image.")
    _add_run(parser, 16)


def _classify(arguments: Namespace) -> int:
    from ...datasets.errors import DataError
    from ..batch.predictions import predict_files
    from ..inference.classification import Classifier

    if arguments.top < 1 or arguments.batch_size < 1:
        raise DataError("--top and --batch-size are at least 1")
    size_hw, window = chosen_size_hw(arguments), _window(arguments)
    model = Classifier.find(arguments.model, size_hw)
    counts = predict_files(
        Classifier.load(model, arguments.device, size_hw), model,
        arguments.inputs, arguments.out, arguments.batch_size,
        lambda row: f"{row[1]} {row[2]:.3f}", window, top=arguments.top,
    )  # fmt: skip
    return _end(window, counts.faults)


def _add_attributes(parser: ArgumentParser) -> None:
    _add_inputs(parser)
    _add_model(parser, "the network")
    add_path(parser, "--out", "Table to write, .parquet or .csv.", required=True)
    add_path(parser, "--pictures", "Folder for annotated images and videos.", "DIR")
    _add_faces_of_images(parser, ", framed as in CelebA")
    _add_run(parser, 8, size=False)


def _attributes(arguments: Namespace, embeddings: bool = False) -> int:
    from ..batch.faces import describe_files

    window = _window(arguments)
    counts = describe_files(
        arguments.inputs, arguments.model, arguments.out, arguments.aligned, arguments.faces,
        arguments.pictures, arguments.batch_size, arguments.device, embeddings, window,
        arguments.detector,
    )  # fmt: skip
    return _end(window, counts.faults)


def _analyze(arguments: Namespace) -> int:
    return _attributes(arguments, embeddings=True)


def _add_locate(parser: ArgumentParser) -> None:
    _add_inputs(parser)
    _add_model(parser, "a geolocator")
    add_path(parser, "--geojson", "Write predictions and the outlines of the best cells.")
    sentence = "JSON lines, one for each image; a run with the same options continues the file."
    add_path(parser, "--out", sentence)
    sentence = "Compare with the GPS positions in the images, which are not read otherwise."
    add_flag(parser, "--compare-exif", sentence)
    add_number(parser, "--top", 5, "Number of places of each image.")
    sentence = "Mean position of the best cell's photos, or where probability is densest."
    parser.add_argument("--answer", choices=["cell", "mode"], default="cell", help=sentence)
    add_flag(parser, "--five-crop", "Average over the corners and the center.")
    _add_run(parser, 16)


def _locate(arguments: Namespace) -> int:
    from ..batch.geolocation import LocateOptions, locate
    from ..inference.geolocation import Geolocator

    model = Geolocator.find(arguments.model)
    geolocator = Geolocator.load(
        model, arguments.device, chosen_size_hw(arguments), arguments.answer,
        arguments.five_crop,
    )  # fmt: skip
    window = _window(arguments)
    options = LocateOptions(
        arguments.top, arguments.batch_size, arguments.compare_exif, arguments.geojson,
        arguments.out, window,
    )  # fmt: skip
    return _end(window, locate(arguments.inputs, geolocator, model, options))


COMMANDS = {
    "detect": Command(
        (_add_detect, _detect),
        "Find objects in images and videos: annotated images, COCO results.",
        "mobilevision detect street.jpg",
        "mobilevision detect photos clip.mp4 'more/*.png' --model ssd.ckpt --out found",
        "mobilevision detect 0 --show",
        "mobilevision detect rtsp://camera.local/stream --no-pictures",
        "mobilevision detect data/coco/val2017 --model ssd.ckpt --out found"
        " --annotations data/coco/annotations/instances_val2017.json --no-pictures",
    ),
    "embed": Command(
        (_add_embed, _embed),
        "Embed the faces of images: one Parquet table, resumable.",
        "mobilevision embed photos --model face.ckpt --out embeddings.parquet",
        "mobilevision embed data/lfw --aligned --model face.ckpt --out lfw.parquet",
        "mobilevision embed data/celeba --layout celeba --views 12"
        " --model ncnn:teacher.param --out views.parquet",
    ),
    "classify": Command(
        (_add_classify, _classify),
        "Classify images: the most probable classes of each, printed or as a table.",
        "mobilevision classify dog.jpg",
        "mobilevision classify photos 'more/*.png' --model mobilenet.onnx --out classes.csv"
        " --top 1",
    ),
    "attributes": Command(
        (_add_attributes, _attributes),
        "Predict the attributes of the faces in images: probabilities and decisions, one table.",
        "mobilevision attributes photos --model attributes.ckpt --out attributes.parquet",
        "mobilevision attributes photos 'more/*.png' --model attributes.ckpt"
        " --out attributes.csv --pictures annotated",
        "mobilevision attributes img_align_celeba --aligned --model attributes.ckpt"
        " --out celeba.csv",
    ),
    "analyze": Command(
        (_add_attributes, _analyze),
        "Embed and describe the faces of images in one pass.",
        "mobilevision analyze photos --model faces.ckpt --out faces.parquet",
        "mobilevision analyze photos 'more/*.png' --model faces.ckpt --out faces.csv"
        " --pictures annotated",
        "mobilevision analyze img_align_celeba --aligned --model faces.ckpt --out celeba.csv",
    ),
    "locate": Command(
        (_add_locate, _locate),
        "Geolocate images: places, probabilities, uncertainty.",
        "mobilevision locate street.jpg --model world.ckpt",
        "mobilevision locate photos --model world.ckpt --geojson places.geojson --compare-exif",
    ),
}

"""Commands that run a model over images."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..command import Command, add_batch_size, add_device, add_inputs, add_size, add_trust
from ..errors import EXIT_FAULT


def _add_detect(parser: ArgumentParser) -> None:
    add_inputs(parser, "Images, videos, folders of them, patterns.")
    parser.add_argument("--model", type=Path, required=True, help="Checkpoint of a detector.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for what is written.")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="Where the COCO results of the images go; results.json in --out if not given.",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO annotations of the images: give the image ids and are measured against.",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="SCORE",
        default=0.5,
        help="Least score that is drawn and counted; results keep lower ones.",
    )
    add_batch_size(parser, 8)
    add_device(parser)
    add_size(parser, "What images are stretched to; as in training if not given.")
    parser.add_argument("--no-pictures", action="store_true", help="Draw nothing.")
    add_trust(parser)


def _detect(arguments: Namespace) -> int:
    """Detect; 1 if files could not be read, the others are done."""
    from ..batch.detection import DetectOptions, detect

    options = DetectOptions(
        arguments.out, arguments.score_threshold, arguments.batch_size, not arguments.no_pictures
    )
    tally = detect(
        arguments.inputs,
        arguments.model,
        options,
        results=arguments.results or arguments.out / "results.json",
        annotations=arguments.annotations,
        device=arguments.device,
        size_hw=tuple(arguments.size) if arguments.size else None,
    )
    sys.stdout.flush()
    return EXIT_FAULT if tally.faults else 0


_LAYOUTS = ("folder", "celeba")


def _add_embed(parser: ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument(
        "--model",
        required=True,
        help="Checkpoint of a face network, or another's: facenet:vggface2, onnx:FILE,"
        " ncnn:FILE.param.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="The table, .parquet; FILE.progress keeps what is done, delete it when you are.",
    )  # fmt: skip
    parser.add_argument(
        "--aligned", action="store_true", help="The images are aligned faces: find none."
    )
    parser.add_argument(
        "--largest", action="store_true", help="Only the largest face of each image."
    )
    parser.add_argument(
        "--views",
        type=int,
        metavar="K",
        help="K views of each face of a data set, as training draws them; the first is plain.",
    )
    parser.add_argument(
        "--layout",
        choices=_LAYOUTS,
        default="folder",
        help="Of the data set, with --views: aligned faces in folders, or CelebA.",
    )
    parser.add_argument(
        "--parts", nargs="+", default=["train"], help="Of CelebA, with --views: train, val, test."
    )
    parser.add_argument(
        "--landmarks", type=Path, metavar="FILE", help="With --views: from data find-faces."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the views.")
    add_batch_size(parser, 16)
    add_device(parser)
    parser.add_argument(
        "--size", type=int, metavar="PX", help="Side of the aligned faces; as in training."
    )
    add_trust(parser)


def _embed(arguments: Namespace) -> int:
    """Embed; 1 if files could not be read, the others are in the table."""
    from ..batch.faces import Views, embed

    views = None
    if arguments.views is not None:
        views = Views(
            arguments.views, arguments.layout, arguments.parts, arguments.landmarks, arguments.seed
        )
    counts = embed(
        arguments.inputs,
        arguments.model,
        arguments.out,
        aligned=arguments.aligned,
        largest=arguments.largest,
        views=views,
        batch_size=arguments.batch_size,
        device=arguments.device,
        size=arguments.size,
    )
    sys.stdout.flush()
    return EXIT_FAULT if counts.faults else 0


def _add_classify(parser: ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument(
        "--model", type=Path, required=True, help="Checkpoint of a classifier, or an exported one."
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="The table, .csv or .parquet; FILE.progress keeps what is done. Else it is printed.",
    )
    parser.add_argument("--top", type=int, metavar="N", default=5, help="Classes of each image.")
    add_batch_size(parser, 16)
    add_device(parser)
    add_size(parser, "Of the network's input; as in training if not given.")
    add_trust(parser)


def _classify(arguments: Namespace) -> int:
    """Classify; 1 if files could not be read, the others are done."""
    from ..batch.classification import classify

    counts = classify(
        arguments.inputs,
        arguments.model,
        arguments.out,
        arguments.top,
        arguments.batch_size,
        arguments.device,
        tuple(arguments.size) if arguments.size else None,
    )
    sys.stdout.flush()
    return EXIT_FAULT if counts.faults else 0


def _add_attributes(parser: ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument(
        "--model", type=Path, required=True, help="Checkpoint of the network, or an exported one."
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="The table: .parquet or .csv."
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="Folder for annotated images.")
    parser.add_argument(
        "--aligned",
        action="store_true",
        help="Each image is one face, framed as CelebA's aligned images are.",
    )
    parser.add_argument(
        "--largest", action="store_true", help="Only the largest face of each image."
    )
    add_batch_size(parser, 8)
    add_device(parser)
    add_trust(parser)


def _attributes(arguments: Namespace, embeddings: bool = False) -> int:
    """Describe; 1 if files could not be read, the others are done.

    Args:
        arguments: The options.
        embeddings: Whether the model embeds faces, too, as that of ``analyze`` does.
    """
    from ..batch.faces import describe_files

    counts = describe_files(
        arguments.inputs,
        arguments.model,
        arguments.out,
        arguments.aligned,
        arguments.largest,
        arguments.pictures,
        arguments.batch_size,
        arguments.device,
        embeddings,
    )
    sys.stdout.flush()
    return EXIT_FAULT if counts.faults else 0


def _analyze(arguments: Namespace) -> int:
    return _attributes(arguments, embeddings=True)


def _add_locate(parser: ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument("--model", type=Path, required=True, help="Checkpoint of a geolocator.")
    parser.add_argument(
        "--geojson",
        type=Path,
        metavar="FILE",
        help="Where answers and outlines of the best cells go.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON lines, one an image; a run with the same options goes on from it.",
    )
    parser.add_argument(
        "--compare-exif",
        action="store_true",
        help="Compare with the GPS positions that images carry; they are not read otherwise.",
    )
    parser.add_argument("--top", type=int, metavar="N", default=5, help="Places of each image.")
    parser.add_argument(
        "--answer",
        choices=["cell", "mode"],
        default="cell",
        help="Mean position of the best cell's photos, or where probability is densest.",
    )
    parser.add_argument("--five-crop", action="store_true", help="Average over corners and center.")
    add_batch_size(parser, 16)
    add_device(parser)
    add_size(parser, "Size of the network's input; as in training if not given.")
    add_trust(parser)


def _locate(arguments: Namespace) -> int:
    """Locate; 1 if files could not be read, the others are done."""
    from ..batch.geolocation import LocateOptions, locate
    from ..inference.geolocation import Geolocator

    geolocator = Geolocator.load(
        arguments.model,
        arguments.device,
        tuple(arguments.size) if arguments.size else None,
        arguments.answer,
        arguments.five_crop,
    )
    options = LocateOptions(
        arguments.top,
        arguments.batch_size,
        arguments.compare_exif,
        arguments.geojson,
        arguments.out,
    )
    faults = locate(arguments.inputs, geolocator, arguments.model, options)
    sys.stdout.flush()
    return EXIT_FAULT if faults else 0


COMMANDS = {
    "detect": Command(
        "Find objects in images and videos: annotated images, COCO results.",
        (
            "mobilevision detect street.jpg --model ssd.ckpt --out found",
            "mobilevision detect photos clip.mp4 'more/*.png' --model ssd.ckpt --out found",
            "mobilevision detect data/coco/val2017 --model ssd.ckpt --out found"
            " --annotations data/coco/annotations/instances_val2017.json --no-pictures",
        ),
        _add_detect,
        _detect,
    ),
    "embed": Command(
        "Embed the faces of images: one Parquet table, resumable.",
        (
            "mobilevision embed photos --model face.ckpt --out embeddings.parquet",
            "mobilevision embed data/lfw --aligned --model face.ckpt --out lfw.parquet",
            "mobilevision embed data/celeba --layout celeba --views 12"
            " --model ncnn:teacher.param --out views.parquet",
        ),
        _add_embed,
        _embed,
    ),
    "classify": Command(
        "Tell what images show: the most probable classes of each, printed or as a table.",
        (
            "mobilevision classify dog.jpg --model mobilenet.ckpt",
            "mobilevision classify photos 'more/*.png' --model mobilenet.onnx --out classes.csv"
            " --top 1",
        ),
        _add_classify,
        _classify,
    ),
    "attributes": Command(
        "Describe faces in images: the probability of each attribute, yes or no, one table.",
        (
            "mobilevision attributes photos --model attributes.ckpt --out attributes.parquet",
            "mobilevision attributes photos 'more/*.png' --model attributes.ckpt"
            " --out attributes.csv --pictures annotated",
            "mobilevision attributes img_align_celeba --aligned --model attributes.ckpt"
            " --out celeba.csv",
        ),
        _add_attributes,
        _attributes,
    ),
    "analyze": Command(
        "Embed and describe the faces of images in one pass: who is alike, and what they show.",
        (
            "mobilevision analyze photos --model faces.ckpt --out faces.parquet",
            "mobilevision analyze photos 'more/*.png' --model faces.ckpt --out faces.csv"
            " --pictures annotated",
            "mobilevision analyze img_align_celeba --aligned --model faces.ckpt --out celeba.csv",
        ),
        _add_attributes,
        _analyze,
    ),
    "locate": Command(
        "Tell where images were taken: places, probabilities, uncertainty.",
        (
            "mobilevision locate street.jpg --model world.ckpt",
            "mobilevision locate photos --model world.ckpt --geojson places.geojson --compare-exif",
        ),
        _add_locate,
        _locate,
    ),
}

"""Commands that measure: ``mobilevision verify`` and ``evaluate coco``."""

import json
import sys
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
    add_layout,
    add_path,
    add_trust,
)

if TYPE_CHECKING:
    from ...heads.detection.coco_metrics import CocoResult


def _add_verify(parser: ArgumentParser) -> None:
    sentence = (
        "Two photos: are their largest faces of one person? Status 0 says yes, 1 no, 2 neither."
    )
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help=sentence)
    sentence = "Of two photos: minimum similarity of one person; as measured if not given."
    parser.add_argument("--threshold", type=float, metavar="SIMILARITY", help=sentence)
    add_flag(parser, "--aligned", "The two photos are aligned faces: do not search for faces.")
    sentence = "Of two photos: take the largest face of each, or the one nearest to the center."
    add_detector(parser, ("largest", "center"), sentence)
    sentence = "Pairs in LFW's format, in folds; drawn from the people if not given."
    add_path(parser, "--pairs", sentence)
    add_path(parser, "--images", "Folder of the faces, with a folder for each person.", "DIR")
    add_layout(parser, "The images have a folder for each person, or are CelebA.")
    parser.add_argument("--parts", nargs="+", default=["val"], help="Of CelebA: train, val, test.")
    sentence = "Of CelebA: also measure faces with and without each; by default Male and Young."
    parser.add_argument("--groups", nargs="*", metavar="ATTRIBUTE", help=sentence)
    add_path(parser, "--landmarks", "From data find-faces, for faces that are not aligned.")
    add_face_model(parser, required=False)
    add_path(parser, "--embeddings", "Table of cached embeddings, instead of images and a model.")
    add_flag(parser, "--json", "Print JSON instead of text.")
    add_path(parser, "--roc", "Draw the ROC curve, .png.")
    add_flag(
        parser,
        "--store",
        "Store the threshold and its errors in the checkpoint, those by group, too.",
    )
    add_batch_size(parser, 32, "Faces in a batch.")
    add_device(parser)
    parser.add_argument("--size", type=int, metavar="PX", help="Side of the faces; as in training.")
    add_trust(parser)


def _verify(arguments: Namespace) -> int:
    from ...datasets.errors import DataError
    from ...heads.face_embedding.threshold import NOT_BY_GROUP
    from ...heads.face_embedding.verification import format_table
    from ..faces.verify import HeldOut, store_threshold, verify_model, verify_table

    model, table = arguments.model, arguments.embeddings
    if arguments.photos:
        return _verify_photos(arguments)
    if arguments.aligned or arguments.threshold is not None or arguments.detector is not None:
        raise DataError("--aligned, --threshold and --detector are for two photos: give them first")
    if (table is None) == (model is None):
        raise DataError(
            "give two photos and --model; or, to measure, either --images and --model, or "
            "--embeddings"
        )
    if arguments.store and (model is None or not Path(model).is_file()):
        raise DataError("--store needs a checkpoint of this package as --model")
    held_out = HeldOut(
        arguments.images, arguments.pairs, arguments.layout, arguments.parts, arguments.landmarks,
        arguments.groups,
    )  # fmt: skip
    if table is not None:
        result = verify_table(held_out, table)
    else:
        result = verify_model(
            held_out, model, arguments.batch_size, arguments.device, arguments.size,
            keep_threshold=not arguments.store,
        )  # fmt: skip
    if arguments.roc is not None:
        from ..callbacks.plots import draw_result
        from ..drawing import write_figure

        write_figure(draw_result(result), arguments.roc)
    if arguments.store:
        store_threshold(Path(str(model)), result)
        print(f"{model}: the threshold and its errors are stored in it", file=sys.stderr)
    print(result.to_json() if arguments.json else format_table(result), end="")
    if result.groups is None:
        print(NOT_BY_GROUP, file=sys.stderr)
    return 0


def _verify_photos(arguments: Namespace) -> int:
    from ...datasets.errors import DataError
    from ..faces.verify import format_verification, verify_photos

    of_measuring = ("images", "pairs", "embeddings", "landmarks", "roc", "groups", "size", "store")
    for name in of_measuring:
        if arguments[name]:
            raise DataError(f"--{name} is for measuring a model: leave the photos or it out")
    if arguments.model is None:
        raise DataError("give the network that compares the photos: --model")
    result = verify_photos(
        arguments.photos, arguments.model, arguments.threshold, arguments.aligned,
        arguments.device, arguments.detector, arguments.faces,
    )  # fmt: skip
    if arguments.json:
        measured = result.measured.to_metadata() if result.measured else None
        print(json.dumps({**result._asdict(), "measured": measured}, indent=1))
    else:
        print(format_verification(result), end="")
    return 0 if result.same else EXIT_FAULT


def _add_evaluate_coco(parser: ArgumentParser) -> None:
    add_path(parser, "--ground-truth", "Annotations in COCO's format.", required=True)
    add_path(parser, "--results", "Detections in COCO's results format.", required=True)
    add_flag(parser, "--json", "Print JSON instead of tables.")
    sentence = "Folder for a report about the errors: report.html, errors.json, figures."
    add_path(parser, "--out", sentence, "DIR")
    add_path(parser, "--images", "With --out: folder of the images, to draw the worst.", "DIR")


def _evaluate_coco(arguments: Namespace) -> int:
    from ...datasets.errors import DataError

    if arguments.images is not None and arguments.out is None:
        raise DataError("--images is for the report: give its folder as --out")
    evaluate_coco(
        arguments.ground_truth, arguments.results, arguments.json, arguments.out, arguments.images
    )
    return 0


def evaluate_coco(
    ground_truth: Path,
    results: Path,
    json: bool = False,
    out: Path | None = None,
    images: Path | None = None,
) -> None:
    """Print the twelve COCO metrics of a results file and the AP of each class.

    Every image of the ground truth counts, as with pycocotools: the objects of an image without
    results are missed. With ``json``, the content of coco_metrics.json is printed, not tables.
    With ``out``, a report about the errors is written to that folder; the worst images are drawn
    if ``images`` is the folder that the names of the ground truth are relative to.

    Raises:
        DataError: A file is missing or wrong.
    """
    from ...heads.detection.coco_metrics import (
        evaluate_boxes,
        format_table,
        read_ground_truth,
        read_results,
    )

    truth = read_ground_truth(ground_truth)
    found = read_results(results, truth)
    paths = _located(ground_truth, truth, images)
    result = evaluate_boxes(truth, found, dataset=ground_truth.stem)
    print(result.to_json() if json else format_table(result), end="")
    if out is not None:
        page = _report_errors(out, result, truth, found, paths)
        print(f"Why it errs: {page}", file=sys.stderr)


def _report_errors(
    out: Path, result: "CocoResult", truth: dict, found: list[dict], paths: dict[int, str]
) -> Path:
    from ...heads.detection.error_analysis import analyze_errors
    from ..error_report.report import Evaluated, write_report

    categories = {row["id"]: row["name"] for row in truth["categories"]}
    analysis = analyze_errors(truth, found, result.dataset)
    return write_report(out, result, analysis, Evaluated(truth, found, categories, paths))


def _located(source: Path, truth: dict, folder: Path | None) -> dict[int, str]:
    """Return the files of the images by id; none without a folder."""
    from ...datasets.errors import DataError
    from ...datasets.files import FileNames

    if folder is None:
        return {}
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give that of the images of {source}.")
    named = {row["id"]: row["file_name"] for row in truth["images"] if "file_name" in row}
    located = FileNames(folder).locate_all(map(str, named.values()), source)
    return dict(zip(named, located, strict=True))


COMMANDS = {
    "verify": Command(
        (_add_verify, _verify),
        "Tell whether two photos show one person, or measure a face model on pairs like LFW's.",
        "mobilevision verify a.jpg b.jpg --model mobilefacenet --accept-license unstated",
        "mobilevision verify --pairs pairs.txt --images data/lfw --model face.ckpt",
        "mobilevision verify --pairs pairs.txt --embeddings lfw.parquet --json",
        "mobilevision verify --images data/celeba --layout celeba --groups Male Young"
        " --model face.ckpt",
    ),
    "evaluate coco": Command(
        (_add_evaluate_coco, _evaluate_coco),
        "Compute COCO's twelve metrics for a results file.",
        "mobilevision evaluate coco --ground-truth gt.json --results results.json",
        "mobilevision evaluate coco --ground-truth gt.json --results results.json"
        " --out errors --images val2017",
    ),
}

"""Commands that measure: ``mobilevision verify`` and ``evaluate coco``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..command import Command, add_batch_size, add_device, add_trust

_LAYOUTS = ("folder", "celeba")


def _add_verify(parser: ArgumentParser) -> None:
    _add_faces(parser)
    parser.add_argument(
        "--model",
        help="Checkpoint of a face network, or another's: facenet:vggface2, onnx:FILE,"
        " ncnn:FILE.param.",
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="Table of cached embeddings, in place of images and a model.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON in place of a table.")
    parser.add_argument("--roc", type=Path, metavar="FILE", help="Draw the ROC curve, .png.")
    parser.add_argument(
        "--store",
        action="store_true",
        help="Put the threshold and its false accept rate into the checkpoint.",
    )
    add_batch_size(parser, 32, "Faces at once in the network.")
    add_device(parser)
    parser.add_argument("--size", type=int, metavar="PX", help="Side of the faces; as in training.")
    add_trust(parser)


def _add_faces(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="List in LFW's format, in folds; drawn from the people if not given.",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="Folder of the faces, one for each person."
    )
    parser.add_argument(
        "--layout",
        choices=_LAYOUTS,
        default="folder",
        help="Of the images: a folder for each person, or CelebA.",
    )
    parser.add_argument("--parts", nargs="+", default=["val"], help="Of CelebA: train, val, test.")
    parser.add_argument(
        "--groups",
        nargs="*",
        metavar="ATTRIBUTE",
        help="Of CelebA: measure faces with and without each, too; Male and Young if not given.",
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        metavar="FILE",
        help="From data find-faces, for faces that are not aligned.",
    )


def _verify(arguments: Namespace) -> int:
    """Measure and print."""
    from ...datasets.errors import DataError
    from ...heads.face_embedding.verification import format_table
    from ..faces.verify import HeldOut, store_threshold, verify_model, verify_table

    model, table = arguments.model, arguments.embeddings
    if (table is None) == (model is None):
        raise DataError("give either --images and --model, or --embeddings")
    if arguments.store and (model is None or not Path(model).is_file()):
        raise DataError("--store needs a checkpoint of this package as --model")
    held_out = HeldOut(
        arguments.images,
        arguments.pairs,
        arguments.layout,
        arguments.parts,
        arguments.landmarks,
        arguments.groups,
    )
    if table is not None:
        result = verify_table(held_out, table)
    else:
        result = verify_model(
            held_out,
            model,
            batch_size=arguments.batch_size,
            device=arguments.device,
            size=arguments.size,
        )
    if arguments.roc is not None:
        from ..callbacks.plots import write_roc

        write_roc(arguments.roc, result)
    if arguments.store:
        store_threshold(Path(str(model)), result)
    print(result.to_json() if arguments.json else format_table(result), end="")
    return 0


def _add_evaluate_coco(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--ground-truth",
        type=Path,
        metavar="FILE",
        required=True,
        help="Annotation file in COCO's format.",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        required=True,
        help="Detections in COCO's results format.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON in place of tables.")


def _evaluate_coco(arguments: Namespace) -> int:
    """Evaluate and print."""
    evaluate_coco(arguments.ground_truth, arguments.results, json=arguments.json)
    return 0


def evaluate_coco(ground_truth: Path, results: Path, json: bool = False) -> None:
    """Print the twelve COCO numbers of a results file and AP for each class.

    Every image of the ground truth counts, as with pycocotools: where the results have nothing
    for one, its objects are missed.

    Args:
        ground_truth: annotations in the COCO format ("instances_val2017.json").
        results: a JSON list of {image_id, category_id, bbox: [x, y, width, height], score}.
        json: print one JSON object (the content of coco_metrics.json) in place of the table.

    Raises:
        DataError: a file is missing or wrong; the message names the entry and what to do.
    """
    from ...heads.detection.coco_metrics import (
        evaluate_boxes,
        format_table,
        read_ground_truth,
        read_results,
    )

    truth = read_ground_truth(ground_truth)
    result = evaluate_boxes(truth, read_results(results, truth), dataset=ground_truth.stem)
    print(result.to_json() if json else format_table(result), end="")


COMMANDS = {
    "verify": Command(
        "Measure how well a face model tells people apart, on pairs as LFW's.",
        (
            "mobilevision verify --pairs pairs.txt --images data/lfw --model face.ckpt",
            "mobilevision verify --pairs pairs.txt --embeddings lfw.parquet --json",
            "mobilevision verify --images data/celeba --layout celeba --groups Male Young"
            " --model face.ckpt",
        ),
        _add_verify,
        _verify,
    ),
    "evaluate coco": Command(
        "Compute COCO's twelve numbers for anybody's results file.",
        ("mobilevision evaluate coco --ground-truth gt.json --results results.json",),
        _add_evaluate_coco,
        _evaluate_coco,
    ),
}

"""``mobilevision evaluate coco``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Compute COCO's twelve numbers for anybody's results file."
EXAMPLES = ("mobilevision evaluate coco --ground-truth gt.json --results results.json",)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
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


def run(arguments: Namespace) -> int:
    """Evaluate and print."""
    from ..detection.evaluate import evaluate_coco

    evaluate_coco(arguments.ground_truth, arguments.results, json=arguments.json)
    return 0

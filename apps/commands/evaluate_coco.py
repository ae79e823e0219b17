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

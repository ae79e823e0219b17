"""``mobilevision evaluate``: the measures of anybody's results file. Free of torch."""

from pathlib import Path


def evaluate_coco(ground_truth: Path, results: Path, json: bool = False) -> None:
    """Print the twelve COCO numbers of a results file and AP for each class.

    Every picture of the ground truth counts, as with pycocotools: where the results have nothing
    for one, its objects are missed.

    Args:
        ground_truth: annotations in the COCO format ("instances_val2017.json").
        results: a JSON list of {image_id, category_id, bbox: [x, y, width, height], score}.
        json: print one JSON object (the content of coco_metrics.json) in place of the table.

    Raises:
        DataError: a file is missing or wrong; the message names the entry and what to do.
    """
    from ...heads.detection.coco_engine import evaluate_boxes
    from ...heads.detection.coco_files import read_ground_truth, read_results
    from ...heads.detection.coco_metrics import format_table

    truth = read_ground_truth(ground_truth)
    result = evaluate_boxes(truth, read_results(results, truth), dataset=ground_truth.stem)
    print(result.to_json() if json else format_table(result), end="")

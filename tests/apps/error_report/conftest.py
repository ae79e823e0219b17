"""A small evaluation with hostile names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps.error_report.report import Evaluated
from mobilevision.heads.detection.coco_metrics import CocoResult, evaluate_boxes
from mobilevision.heads.detection.error_analysis import ErrorAnalysis, analyze_errors

# Matplotlib leaves names with an underscore out of legends, and reads formulas between dollars.
HOSTILE = '_$x_$<script>alert("1")</script>&amp;<img src=x onerror=alert(2)>'
Evaluation = tuple[CocoResult, ErrorAnalysis, Evaluated]


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    """Three images: one is right, one has a miss, the last a miss, a confusion and no file."""
    names = {1: HOSTILE, 5: "dog"}
    rows = [(1, 1, 0), (2, 1, 0), (2, 1, 40), (3, 1, 0), (3, 5, 40), (3, 1, 60)]
    truth = {
        "images": [{"id": image} for image in (1, 2, 3)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": [x, 0, 20, 20]}
            for number, (image, category, x) in enumerate(rows, 1)
        ],
        "categories": [{"id": key, "name": name} for key, name in names.items()],
    }
    detections = [(1, 1, 0, 0.9), (2, 1, 0, 0.8), (3, 5, 0, 0.7), (3, 5, 40, 0.6)]
    results = [
        {"image_id": image, "category_id": category, "bbox": [x, 0, 20, 20], "score": score}
        for image, category, x, score in detections
    ]
    paths = {image: tmp_path / f"{image}<b>.png" for image in (1, 2, 3)}
    for image in (1, 2):
        Image.fromarray(np.full((30, 80, 3), 90, np.uint8)).save(paths[image])
    dataset = f"</title>{HOSTILE}"
    return (
        evaluate_boxes(truth, results, dataset),
        analyze_errors(truth, results, dataset),
        Evaluated(truth, results, names, paths),
    )

"""Faces in exported files of the public face detector, beside its checkpoint and known answers.

    python benchmarks/face_formats.py --data=data --models="[face.ckpt, face.onnx, face8.onnx]"

The known answers are `retinaface/golden.json` in the folder of data: the faces that an independent
float32 pass of the public weights finds in 60 photos at their own size, with a score of at least
0.3. A model finds one of them if it has a box of that score with an IoU of at least 0.5. AP is
COCO's, with the known faces as truth. Every model works on letterboxed photos of its input size.

The largest differences are to the first model, over all faces that score at least 0.1 there.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from mobilevision.apps import DetectionResult, FaceDetector
from mobilevision.datasets.files import size_of
from mobilevision.heads.detection.coco_metrics import evaluate_boxes

SCORE, IOU, COMPARED = 0.3, 0.5, 0.1
LOWEST = 0.02
Known = dict[str, list[dict[str, Any]]]


def compare(
    data: Path | None = None,
    models: Sequence[Path] = (),
    size_hw: tuple[int, int] = (640, 640),
) -> None:
    """Print a table with one line for each model.

    Args:
        data: Folder with `retinaface/golden.json` and the photos that it names; without it,
            nothing is measured.
        models: Checkpoints and exported files.
        size_hw: Input size of checkpoints.
    """
    if data is None:
        print("without --data, a folder with retinaface/golden.json, nothing is known")
        return
    known: Known = json.loads((data / "retinaface" / "golden.json").read_text())
    photos: list[Any] = [data / name for name in known]
    first: list[DetectionResult] = []
    print(f"{'model':<20}{'MB':>6}  found  more   box landmarks   eyes     AP  AP50   differs")
    for model in models:
        size = size_hw if model.suffix == ".ckpt" else None
        found: Any = FaceDetector.load(model, "cpu", size)(photos, LOWEST, batch_size=1)
        first = first or found
        hits, more, distances = match(known, found)
        box, points, eyes = np.mean(distances, axis=0)
        ap = average_precision(known, found)
        files = [model, model.with_suffix(".bin")] if model.suffix == ".xml" else [model]
        megabytes = sum(map(size_of, files)) / 1e6
        apart = " ".join(f"{value:.1e}" for value in differences(first, found))
        print(
            f"{model.name:<20}{megabytes:>6.2f}  {hits:>5}  {more:>4}  {box:>4.2f}"
            f"  {points:>8.2f}  {eyes:.3f}  {ap[0]:.3f} {ap[1]:.3f}   {apart}",
            flush=True,
        )


def match(
    known: Known, found: list[DetectionResult]
) -> tuple[int, int, list[tuple[float, float, float]]]:
    """Return how many known faces are found, how many others, and the distances of the former.

    Distances are the means of a box's sides and of five landmarks in px, and of the latter in units
    of the distance of the eyes.
    """
    distances, others = [], 0
    for faces, result in zip(known.values(), found, strict=True):
        sure = result.above(SCORE)
        others += len(sure)
        height, width = sure.size_hw
        taken: set[int] = set()
        for face in faces:
            box = np.clip(np.array(face["box"], np.float32), 0, [width, height] * 2)
            overlap = box_iou(torch.from_numpy(box)[None].float(), torch.from_numpy(sure.boxes))[0]
            if not len(sure) or overlap.max() < IOU or int(overlap.argmax()) in taken:
                continue
            best = int(overlap.argmax())
            taken.add(best)
            points = np.reshape(face["landmarks"], (5, 2))
            assert sure.landmarks is not None
            apart = np.linalg.norm(sure.landmarks[best] - points, axis=1).mean()
            eyes = np.linalg.norm(points[1] - points[0])
            distances.append((np.abs(sure.boxes[best] - box).mean(), apart, apart / eyes))
    return len(distances), others - len(distances), distances


def average_precision(known: Known, found: list[DetectionResult]) -> tuple[float, float]:
    """Return COCO's AP and AP50 with the known faces as truth."""
    truth: dict[str, Any] = {
        "images": [{"id": image} for image in range(len(known))],
        "categories": [{"id": 1, "name": "face"}],
        "annotations": [],
    }
    for image, faces in enumerate(known.values()):
        for face in faces:
            x1, y1, x2, y2 = face["box"]
            row = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": 1}
            truth["annotations"].append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    rows = [row for image, result in enumerate(found) for row in result.to_coco(image)]
    measured = evaluate_boxes(truth, rows, "faces").as_dict()
    return measured["AP"], measured["AP50"]


def differences(
    expected: list[DetectionResult], found: list[DetectionResult]
) -> tuple[float, float, float]:
    """Return the largest differences of box, landmarks (px) and score to the nearest face."""
    largest = np.zeros(3)
    for theirs, ours in zip(expected, found, strict=True):
        wanted = theirs.above(COMPARED)
        assert wanted.landmarks is not None
        assert ours.landmarks is not None
        for box, points, score in zip(wanted.boxes, wanted.landmarks, wanted.scores, strict=True):
            if not len(ours):
                return np.inf, np.inf, np.inf
            apart = np.abs(ours.boxes - box).max(axis=1)
            near = apart.argmin()
            landmarks = np.abs(ours.landmarks[near] - points).max()
            here = [apart[near], landmarks, abs(ours.scores[near] - score)]
            largest = np.maximum(largest, here)
    return tuple(largest.tolist())  # type: ignore[return-value]


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)

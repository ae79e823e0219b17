"""Made-up ground truth and results in COCO's formats."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

CATEGORIES = {3: "raccoon", 7: "cat", 18: "dog", 90: "unicorn"}
Case = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def random_case() -> Callable[..., Case]:
    """Makes ground truth and results of a seed; ``crowded`` has 160 detections in an image."""
    return made_up


def made_up(seed: int, crowded: bool = False) -> Case:
    """Ground truth with empty images, crowds and a class without objects; detections near it."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(10_000, size=12, replace=False).tolist()
    annotations, results = [], []
    for position, image_id in enumerate(image_ids):
        for _ in range(0 if position % 4 == 0 else int(rng.integers(1, 9))):
            width, height = np.exp(rng.uniform(2, 5.5, size=2))
            box = [*rng.uniform(0, 300, size=2).tolist(), float(width), float(height)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([3, 7, 18])),
                    "bbox": box,
                    "area": float(width * height * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
        near = [row for row in annotations if row["image_id"] == image_id]
        count = 0 if position % 5 == 1 else 160 if crowded else int(rng.integers(0, 15))
        for _ in range(count):
            source = near[rng.integers(len(near))] if near else {"bbox": [9, 9, 50, 60]}
            box = (np.array(source["bbox"]) * rng.uniform(0.85, 1.15, size=4)).tolist()
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(rng.choice([source.get("category_id", 3), 3, 90])),
                    "bbox": box,
                    "score": float(np.round(rng.random(), 2)),
                }
            )
    truth = {
        "images": [{"id": image_id} for image_id in image_ids],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }
    return truth, results

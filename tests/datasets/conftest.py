"""A small COCO-format data set on disk, to be spoilt by tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Document = dict[str, Any]


def small_document() -> Document:
    """Three images of 100x80 (width x height); the last has no boxes; category ids have a gap."""
    return {
        "images": [
            {"id": 10, "file_name": "a.jpg", "width": 100, "height": 80},
            {"id": 20, "file_name": "b.jpg", "width": 100, "height": 80},
            {"id": 5, "file_name": "c.jpg", "width": 100, "height": 80},
        ],
        "annotations": [
            {"id": 4, "image_id": 20, "category_id": 9, "bbox": [0, 0, 50, 40], "area": 1500.5,
             "iscrowd": 1, "segmentation": {"size": [80, 100], "counts": "x"}},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [10.5, 20, 30, 40], "area": 900,
             "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]},
            {"id": 7, "image_id": 10, "category_id": 9, "bbox": [60, 10, 40, 70], "area": 2800,
             "iscrowd": 0, "segmentation": []},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
    }  # fmt: skip


@pytest.fixture
def document() -> Document:
    return small_document()


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Write documents as a data set: one argument for each split; returns the root."""

    def write(draw: bool = True, **documents: Any) -> Path:
        root = tmp_path / "set"
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "images").mkdir(exist_ok=True)
        for split, content in documents.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (root / "annotations" / f"{split}.json").write_text(text)
            for image in content["images"] if draw and isinstance(content, dict) else ():
                rng = np.random.default_rng(image["id"])
                pixels = rng.integers(0, 256, (image["height"] // 8, image["width"] // 8, 3))
                drawn = Image.fromarray(pixels.astype(np.uint8))
                drawn.resize((image["width"], image["height"])).save(
                    root / "images" / image["file_name"]
                )
        return root

    return write

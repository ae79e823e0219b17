import json

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.datasets.detection.image_checks import turn_boxes, turn_landmarks
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.detection import CocoFaces, FaceDetectionDataModule
from mobilevision.datasets.transforms.detection import AlbumentationsPipeline

POINTS = [30, 30, 2, 50, 30, 2, 40, 40, 1, 32, 52, 2, 0, 0, 0]


def write(folder, annotations, name="face"):
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 120, "height": 80}
            for number in (1, 2)
        ],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": [20, 20, 40, 40], **each}
            for number, each in enumerate(annotations, start=1)
        ],
        "categories": [{"id": 1, "name": name}],
    }
    for number in (1, 2):
        Image.new("RGB", (120, 80), "gray").save(folder / f"{number}.png")
    (folder / "faces.json").write_text(json.dumps(content))
    return CocoFaces(folder / "faces.json", folder)


def test_coco__five_keypoints_are_landmarks(tmp_path) -> None:
    found = write(tmp_path, [{"keypoints": POINTS}, {}, {"keypoints": [1, 2, 2] * 17}]).read()
    points = found.boxes.landmarks
    assert points is not None
    assert points[0, :4].tolist() == [[30, 30], [50, 30], [40, 40], [32, 52]]
    assert np.isnan(points[0, 4]).all()  # not labeled
    assert np.isnan(points[1:]).all()
    assert "3 boxes, 1 with landmarks" in found.summary()


@pytest.mark.parametrize("keypoints", [None, [1, 2, 2] * 17, ["x"] * 15, [[1], *[2] * 14], "text"])
def test_coco__no_five_keypoints__no_landmarks(tmp_path, keypoints) -> None:
    assert write(tmp_path, [{"keypoints": keypoints}]).read().boxes.landmarks is None


def module(source, **options) -> FaceDetectionDataModule:
    return FaceDetectionDataModule(
        source, source, size_hw=(96, 96), batch_size=2, num_workers=0, **options
    )


def test_module__batches_of_images_with_and_without_faces(tmp_path) -> None:
    data = module(write(tmp_path, [{"keypoints": POINTS}, {"bbox": [70, 10, 30, 30]}]))
    assert data.categories == {1: "face"}
    assert data.num_classes == 1
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch.target.boxes.shape == (2, 2, 4)
    assert batch.target.labels.tolist() == [[0, 0], [-1, -1]]
    points = batch.target.landmarks
    assert points.shape == (2, 2, 5, 2)
    torch.testing.assert_close(points[0, 0, 0], torch.tensor([24.0, 24.0]))  # of 0.8
    assert points[0, 1].isnan().all()
    assert points[1].isnan().all()
    assert next(iter(data.train_dataloader())).target.landmarks is not None


def test_module__without_landmarks(tmp_path) -> None:
    data = module(write(tmp_path, [{}]))
    data.setup("fit")
    assert next(iter(data.train_dataloader())).target.landmarks is None


def test_module__classes_that_differ(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train = write(tmp_path / "a", [{}])
    val = write(tmp_path / "b", [{}], "head")
    data = FaceDetectionDataModule(train, val, num_workers=0)
    with pytest.raises(DataError, match=r"classes \{1: 'head'\} are not those of the training"):
        data.setup("fit")


def test_module__transform_that_loses_landmarks(tmp_path) -> None:
    with pytest.raises(DataError, match="moves boxes and no landmarks"):
        module(write(tmp_path, [{}]), train_transform=AlbumentationsPipeline((96, 96), []))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned__landmarks_turn_as_boxes_do(orientation) -> None:
    points = np.array([[[30, 30], [50, 30], [40, 40], [32, 52], [48, 52]]], np.float32)
    turned = turn_landmarks(points, (80, 120), orientation)
    assert turned is not None
    corners = np.concatenate([points[0], points[0]], axis=1)
    expected = turn_boxes(corners, (80, 120), orientation)[:, :2]
    order = [1, 0, 2, 4, 3] if orientation in (5, 7) else [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(turned[0], expected[order])
    assert turn_landmarks(None, (80, 120), orientation) is None

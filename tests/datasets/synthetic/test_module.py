"""The generated scenes as a data module."""

from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from pycocotools.coco import COCO

from mobilevision.datasets.detection.module import DetectionDataModule
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.synthetic.detection import tight_box_xywh, write_scenes
from mobilevision.datasets.synthetic.module import SyntheticDataModule
from mobilevision.datasets.synthetic.scenes import CLASS_NAMES


def module(root: Path, train_scenes: int = 9) -> SyntheticDataModule:
    return SyntheticDataModule(
        root,
        train_scenes=train_scenes,
        val_scenes=5,
        scene_size_hw=(96, 120),
        batch_size=4,
        num_workers=0,
        size_hw=(96, 120),
    )


def test_synthetic_data_module__constructed__knows_the_classes_and_writes_nothing(
    tmp_path: Path,
) -> None:
    data = module(tmp_path / "scenes")
    assert list(data.categories.values()) == list(CLASS_NAMES)
    assert data.num_classes == len(CLASS_NAMES)
    assert list(tmp_path.iterdir()) == []


def test_synthetic_data_module__validation_batches__hold_the_boxes_of_the_masks(
    tmp_path: Path,
) -> None:
    data = module(tmp_path / "scenes")
    data.prepare_data()
    data.setup("validate")
    truth = COCO(tmp_path / "scenes" / "annotations" / "instances_val.json")
    seen = 0
    for batch in data.val_dataloader():
        assert batch.images.shape[1:] == (3, 96, 120)
        for index, image_id in enumerate(batch.image_ids.tolist()):
            expected = []
            for annotation in truth.imgToAnns[image_id]:
                x, y, width, height = tight_box_xywh(truth.annToMask(annotation) > 0)
                label = annotation["category_id"] - 1
                expected.append([x, y, x + width, y + height, label])
            real = batch.target.labels[index] >= 0
            found = torch.cat(
                [batch.target.boxes[index], batch.target.labels[index].unsqueeze(1)], dim=1
            )
            torch.testing.assert_close(found[real], torch.tensor(expected).reshape(-1, 5).float())
            seen += 1
    assert seen == 5


def test_synthetic_data_module__scenes_there__are_what_coco_data_module_finds(
    tmp_path: Path,
) -> None:
    write_scenes(tmp_path / "scenes", train=9, val=5, size_hw=(96, 120), progress=False)
    plain = DetectionDataModule(tmp_path / "scenes", batch_size=4, num_workers=0)
    assert plain.categories == module(tmp_path / "scenes").categories
    plain.setup("fit")
    assert len(plain.datasets["train"]) == 9
    assert len(plain.datasets["val"]) == 5


def test_synthetic_data_module__other_scenes_in_the_folder__data_error(tmp_path: Path) -> None:
    module(tmp_path / "scenes").prepare_data()
    with pytest.raises(DataError, match="other parameters"):
        module(tmp_path / "scenes", train_scenes=8).prepare_data()


def test_synthetic_data_module__in_yaml__takes_its_options_and_those_of_loading() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(SyntheticDataModule, "data")
    name = f"{SyntheticDataModule.__module__}.SyntheticDataModule"
    options = parser.parse_args(
        [f"--data={name}", "--data.train_scenes=7", "--data.batch_size=3", "--data.num_workers=0"]
    )
    data = parser.instantiate_classes(options).data
    assert (data.train_scenes, data.batch_size) == (7, 3)

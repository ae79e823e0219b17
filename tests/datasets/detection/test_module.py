import json
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from mobilevision.datasets.detection import coco
from mobilevision.datasets.detection.annotations import Annotations
from mobilevision.datasets.detection.coco import COCO_CATEGORIES, read_coco
from mobilevision.datasets.detection.convert import convert_dataset
from mobilevision.datasets.detection.layout import find_layout
from mobilevision.datasets.detection.module import (
    DetectionDataModule,
    DetectionDataset,
    Split,
    collate,
)
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.sampling import SampleKey
from mobilevision.datasets.transforms.detection import Resize, SSDAugment
from mobilevision.datasets.types import DetectionBatch

from . import layouts

Write = Callable[..., Path]
Document = dict[str, Any]

SIZE_HW = (40, 50)


@pytest.fixture
def root(write_coco: Write, document: Document) -> Path:
    return write_coco(train=document, val=document)


def module(root: Path, **options: Any) -> DetectionDataModule:
    options = {"batch_size": 2, "num_workers": 0, "size_hw": SIZE_HW} | options
    return DetectionDataModule(root, **options)


def read(root: Path, on_error: Any = "raise") -> Annotations:
    return read_coco(root / "annotations" / "train.json", root / "images", on_error=on_error)


def same(first: DetectionBatch, second: DetectionBatch) -> bool:
    ours = (first.images, *first.target[:3], first.image_ids, first.sizes_hw)
    theirs = (second.images, *second.target[:3], second.image_ids, second.sizes_hw)
    equal = [torch.equal(one, two) for one, two in zip(ours, theirs, strict=True)]
    return all(equal) and first.paths == second.paths


def test_detection_dataset__sample__pixels_and_scaled_boxes(root: Path) -> None:
    dataset = DetectionDataset(read(root), Resize(SIZE_HW))
    sample = dataset[0]
    assert sample.image.shape == (*SIZE_HW, 3)
    assert sample.image_id == 10
    assert sample.size_hw == (80, 100)
    np.testing.assert_allclose(sample.objects.boxes[0], [5.25, 10, 20.25, 30])
    assert (len(dataset), dataset.categories) == (3, {3: "cat", 9: "dog"})
    assert dataset.name == "set/annotations/train.json (3 images)"
    assert len(dataset.ground_truth["images"]) == 3
    with pytest.raises(IndexError):
        dataset[3]


def test_detection_dataset__augmentation__of_seed_epoch_and_position_alone(root: Path) -> None:
    def image(seed: int, key: SampleKey | int) -> np.ndarray:
        return DetectionDataset(read(root), SSDAugment(SIZE_HW), seed)[key].image

    first = image(1, SampleKey(0, 3))
    assert np.array_equal(first, image(1, SampleKey(0, 3)))
    assert not np.array_equal(first, image(1, SampleKey(0, 4)))
    assert not np.array_equal(first, image(2, SampleKey(0, 3)))
    assert np.array_equal(image(1, 1), image(1, SampleKey(1, 0)))


def test_detection_dataset__pickled__same_samples(root: Path) -> None:
    dataset = DetectionDataset(read(root), SSDAugment(SIZE_HW), seed=4)
    twin = pickle.loads(pickle.dumps(dataset))
    key = SampleKey(1, 5)
    assert same(collate([dataset[key]]), collate([twin[key]]))


def test_detection_dataset__no_images__error(root: Path) -> None:
    with pytest.raises(DataError, match="no images are left"):
        DetectionDataset(read(root).select(np.array([], dtype=int)), Resize(SIZE_HW))


def test_collate__samples_of_various_counts__padded_batch(root: Path) -> None:
    dataset = DetectionDataset(read(root), Resize(SIZE_HW))
    batch = collate([dataset[index] for index in range(3)])
    assert batch.images.shape == (3, 3, *SIZE_HW)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images[1], torch.from_numpy(dataset[1].image).permute(2, 0, 1))
    assert batch.target.labels.tolist() == [[0, 1], [1, -1], [-1, -1]]
    assert batch.target.crowd.tolist() == [[False, False], [True, False], [False, False]]
    assert batch.target.boxes[1].tolist() == [[0, 0, 25, 20], [0, 0, 0, 0]]
    assert batch.image_ids.tolist() == [10, 20, 5]
    assert batch.sizes_hw.tolist() == [[80, 100]] * 3
    assert [Path(path).name for path in batch.paths] == ["a.jpg", "b.jpg", "c.jpg"]


def test_collate__no_boxes_at_all__empty_target(root: Path) -> None:
    batch = collate([DetectionDataset(read(root), Resize(SIZE_HW))[2]])
    assert batch.target.boxes.shape == (1, 0, 4)
    assert batch.target.labels.dtype == torch.int64


@pytest.mark.parametrize("num_workers", [0, 2])
def test_detection_dataset__unreadable_under_raise__message_without_traceback(
    root: Path, num_workers: int
) -> None:
    data = module(root, num_workers=num_workers, batch_size=1)
    data.setup("fit")
    (root / "images" / "b.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError) as caught:
        list(data.train_dataloader())
    assert str(caught.value).startswith(str(root / "images" / "b.jpg"))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_detection_dataset__unreadable_under_skip__next_one_and_counted(
    root: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = module(root, num_workers=num_workers, batch_size=3, on_error="skip")
    data.setup("fit")
    content = (root / "images" / "b.jpg").read_bytes()
    (root / "images" / "b.jpg").write_bytes(content[: len(content) // 2])
    (batch,) = list(data.train_dataloader())
    assert sorted(batch.image_ids.tolist()) == [5, 5, 10]
    assert data.datasets["train"].unreadable == [str(root / "images" / "b.jpg")]
    with caplog.at_level(logging.WARNING, "lightning.pytorch"):
        data.teardown("fit")
    assert "1 of 3 images could not be read during fit" in caplog.text
    assert "b.jpg" in caplog.text


def test_detection_dataset__nothing_readable_under_skip__error(root: Path) -> None:
    dataset = DetectionDataset(read(root), Resize(SIZE_HW), on_error="skip")
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the images can be read"):
        dataset[0]


def test_detection_dataset__another_size_than_declared__error(
    write_coco: Write, root: Path, document: Document
) -> None:
    document["images"][0]["height"] = 81
    write_coco(draw=False, train=document)
    with pytest.raises(DataError, match=r"a\.jpg: the image is 100x80"):
        DetectionDataset(read(root), Resize(SIZE_HW))[0]


def test_detection_data_module__root_alone__splits_and_classes_known(root: Path) -> None:
    data = module(root)
    assert data.num_classes == 2
    assert data.categories == {3: "cat", 9: "dog"}
    assert data.num_workers == 0
    batches = list(data.val_dataloader())
    assert [batch.image_ids.tolist() for batch in batches] == [[10, 20], [5]]
    assert isinstance(data.val_dataloader().dataset, DetectionDataset)
    assert same(next(iter(data.test_dataloader())), batches[0])
    assert same(next(iter(data.predict_dataloader())), batches[0])


def test_detection_data_module__splits_given__taken(root: Path) -> None:
    (root / "ids.txt").write_text("5")
    data = module(
        root,
        train=[Split("annotations/train.json", "images", exclude_ids="ids.txt")],
        val=Split("annotations/val.json", "images", ids="ids.txt"),
        test=Split("annotations/train.json", "images"),
    )
    data.setup("fit")
    data.setup("test")
    assert {name: len(dataset) for name, dataset in data.datasets.items()} == {
        "train": 2, "val": 1, "test": 3
    }  # fmt: skip


def test_detection_data_module__batch_larger_than_the_set__one_batch(root: Path) -> None:
    assert len(list(module(root, batch_size=8).train_dataloader())) == 1
    assert len(list(module(root, batch_size=2).train_dataloader())) == 1


def test_detection_data_module__no_data__error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mobilevision data download coco"):
        module(tmp_path / "absent")


def test_detection_data_module__split_not_there__error(root: Path) -> None:
    data = module(root, val=Split("annotations/val.json", "images"))
    with pytest.raises(DataError, match="there is no train split, only val"):
        data.setup("fit")


def test_detection_data_module__image_missing__setup_raises_or_counts(root: Path) -> None:
    (root / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: no such image"):
        module(root).setup("fit")
    data = module(root, on_error="skip")
    data.setup("fit")
    assert [image["id"] for image in data.datasets["val"].ground_truth["images"]] == [20, 5]
    assert len(data.datasets["train"]) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"seed": -1}, "seed"),
        ({"train_transform": Resize((9, 9))}, "Resize makes images"),
        ({"val_transform": Resize((9, 9))}, "Resize makes images"),
        ({"on_error": "ignore"}, "on_error"),
    ],
)
def test_detection_data_module__option_out_of_range__error(
    root: Path, options: Any, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        module(root, **options)


def test_detection_data_module__released_file__classes_known_without_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text("not read")
    monkeypatch.setitem(coco.OFFICIAL_FILES, file.name, (len("not read"), "COCO train2017"))
    data = module(tmp_path)
    assert data.categories == COCO_CATEGORIES
    assert data.num_classes == 80
    with pytest.raises(DataError, match="not a JSON file"):
        data.read_split("train")


def trainer_after(batches: int) -> SimpleNamespace:
    """As much of a Trainer as a data module asks, three batches an epoch."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=batches))
    epoch_loop = SimpleNamespace(batch_progress=progress)
    return SimpleNamespace(num_training_batches=3, fit_loop=SimpleNamespace(epoch_loop=epoch_loop))


def test_train_dataloader__any_number_of_workers__same_batches(root: Path) -> None:
    def batches(num_workers: int) -> Iterator[DetectionBatch]:
        data = module(root, num_workers=num_workers, batch_size=1, seed=6)
        loader = data.train_dataloader()
        for epoch in range(2):
            data.trainer = trainer_after(epoch * 3)
            yield from loader

    first, second = list(batches(0)), list(batches(2))
    assert len(first) == 6
    assert all(same(one, two) for one, two in zip(first, second, strict=True))
    assert len({int(batch.images.sum()) for batch in first}) == 6


class Recorder(LightningModule):
    """Learns nothing, and keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[int], int]] = []

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> torch.Tensor:
        del batch_idx
        pixels = int(batch.images.sum())
        self.seen.append((self.current_epoch, batch.image_ids.tolist(), pixels))
        return self.weight.sum()

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        del batch, batch_idx

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def record(
    root: Path,
    tmp_path: Path,
    epochs: int,
    checkpoint: Path | None = None,
    callbacks: list[Callback] | None = None,
) -> Recorder:
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=bool(callbacks),
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Recorder()
    trainer.fit(model, datamodule=module(root, batch_size=1), ckpt_path=checkpoint)
    trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)
    return model


def test_trainer__epochs_and_resume__order_and_augmentation_of_an_uninterrupted_run(
    root: Path, tmp_path: Path
) -> None:
    whole = record(root, tmp_path, epochs=3).seen
    begun = record(root, tmp_path, epochs=1).seen
    rest = record(root, tmp_path, epochs=3, checkpoint=tmp_path / "end.ckpt").seen
    assert begun + rest == whole
    assert [epoch for epoch, _, _ in whole] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    pixels = {(image_ids[0], pixels) for _, image_ids, pixels in whole}
    assert len(pixels) == 9
    orders = {tuple(ids[0] for epoch, ids, _ in whole if epoch == wanted) for wanted in range(3)}
    assert len(orders) > 1


@pytest.mark.parametrize("when", ["step", "validation", "epoch"])
def test_trainer__resume_anywhere__rest_of_an_uninterrupted_run(
    root: Path, tmp_path: Path, when: str
) -> None:
    every = {
        "step": {"every_n_train_steps": 1},
        "validation": {"save_on_train_epoch_end": False},
        "epoch": {"save_on_train_epoch_end": True},
    }[when]
    saves = ModelCheckpoint(tmp_path / "all", filename="{step}", save_top_k=-1, **every)
    whole = record(root, tmp_path, epochs=3, callbacks=[saves]).seen
    checkpoints = sorted((tmp_path / "all").glob("*.ckpt"))
    assert len(checkpoints) == (9 if when == "step" else 3)
    for checkpoint in checkpoints:
        done = int(checkpoint.stem.removeprefix("step="))
        rest = record(root, tmp_path, epochs=3, checkpoint=checkpoint).seen
        assert rest == whole[done:], checkpoint.name


def write_voc(root: Path) -> None:
    for split, name in (("train", "a"), ("valid", "b")):
        (root / split).mkdir(parents=True)
        (root / split / f"{name}.xml").write_text(
            "<annotation><object><name>owl</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>8</xmax><ymax>6</ymax></bndbox></object></annotation>"
        )
        pixels = np.zeros((6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / split / f"{name}.png")


def test_detection_data_module__voc_in_flat_folders__batches(tmp_path: Path) -> None:
    write_voc(tmp_path)
    data = DetectionDataModule(tmp_path, batch_size=1, num_workers=0, size_hw=SIZE_HW)
    assert data.categories == {1: "owl"}
    batch = next(iter(data.val_dataloader()))
    assert batch.target.boxes.tolist() == [[[0, 0, 50, 40]]]
    assert data.datasets["val"].ground_truth["annotations"][0]["bbox"] == [0, 0, 8, 6]
    assert len(list(data.train_dataloader())) == 1


# --- layouts, and no validation split


@pytest.mark.parametrize("name", ["coco", "yolo", "voc"])
def test_detection_data_module__every_format__the_same_batches(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    layouts.DIVIDED[name](tmp_path)
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        data = module(tmp_path, batch_size=3)
        data.setup("fit")
    assert f"splits train, val. Classes (3): {', '.join(layouts.CLASSES)}" in caplog.text
    assert "3 images): 3 boxes, classes: 3, images without boxes: 1" in caplog.text
    assert list(data.categories.values()) == list(layouts.CLASSES)
    (batch,) = list(data.val_dataloader())
    by_name = {Path(path).stem: row for row, path in enumerate(batch.paths)}
    np.testing.assert_allclose(batch.target.boxes[by_name["e"], 0], [1, 1.6, 4, 4.8], rtol=1e-6)
    assert batch.target.labels[by_name["e"], 0] == 0
    assert (batch.target.labels[by_name["f"]] == -1).all()


def test_detection_data_module__same_images_to_validate__warned(tmp_path: Path) -> None:
    layouts.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(
        "train: images/train\nval: images/train\nnames: [cat, dog, owl]"
    )
    with pytest.warns(UserWarning, match="training and validation have the same images"):
        data = module(tmp_path)
    train, val = (data.read_split(split).images.paths for split in ("train", "val"))
    assert len(val) == 3
    assert list(train) == list(val)


def test_detection_data_module__unlabeled_images__as_the_option_says(tmp_path: Path) -> None:
    layouts.yolo(tmp_path)
    (tmp_path / "labels/train/d.txt").unlink()
    with pytest.raises(DataError, match="1 of 3 images"):
        module(tmp_path).setup("fit")
    for unlabeled, count in (("skip", 2), ("background", 3)):
        data = module(tmp_path, unlabeled=unlabeled)
        data.setup("fit")
        assert len(data.datasets["train"]) == count


@pytest.mark.parametrize("old", ["CocoDataModule", "VocDataModule"])
def test_detection_data_module__old_name_in_a_yaml__works_and_is_said(root: Path, old: str) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DetectionDataModule, "data")
    with pytest.warns(UserWarning, match=f"{old} is DetectionDataModule now"):
        options = parser.parse_args([
            f"--data=mobilevision.datasets.detection.module.{old}", f"--data.root={root}",
            "--data.val=test", "--data.train={annotations: a.json, images: b}",
        ])  # fmt: skip
    assert options.data.init_args.val == "test"
    assert options.data.init_args.train.annotations == "a.json"


@pytest.fixture
def undivided(tmp_path: Path) -> Path:
    """Twenty photos of cats or dogs, two of them the same, without a validation split."""
    folder = tmp_path / "photos"
    scenes = [
        layouts.Scene(f"{number:02}", (64, 64), [("cat" if number % 4 else "dog", 4, 4, 50, 50)])
        for number in range(20)
    ]
    layouts.draw(folder / "images", scenes)
    (folder / "images/07.png").write_bytes((folder / "images/13.png").read_bytes())
    layouts.write_labels(folder / "labels", scenes)
    (folder / "classes.txt").write_text("cat\ndog\n")
    return folder


def held_out(data: DetectionDataModule) -> set[str]:
    return {Path(path).stem for path in data.datasets["val"].paths}


def test_val_fraction__not_asked__error_names_the_option(undivided: Path) -> None:
    with pytest.raises(DataError, match=r"no val split, only train\. .* data\.val_fraction=0\.2"):
        module(undivided).setup("fit")
    layouts.voc(undivided / "voc")
    with pytest.raises(DataError, match="has a validation split, so"):
        module(undivided / "voc", val_fraction=0.2)
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        module(undivided, val_fraction=2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_val_fraction__asked__same_images_with_any_number_of_workers(
    undivided: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = module(undivided, val_fraction=0.2, num_workers=num_workers)
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        data.setup("fit")
    assert (
        "for validation, 4 of 20 images held out; 1 groups of near-duplicates (2 images"
        in caplog.text
    )
    assert data.datasets["val"].name == "photos/images, held-out part (4 images)"
    assert data.datasets["train"].name == "photos/images, remaining part (16 images)"
    assert not held_out(data) & {Path(path).stem for path in data.datasets["train"].paths}
    assert len(held_out(data) & {"07", "13"}) in (0, 2)
    assert set(data.datasets["val"].annotations.boxes.labels) == {0, 1}
    again = module(undivided, val_fraction=0.2)
    again.setup("validate")
    assert held_out(again) == held_out(data)
    other = module(undivided, val_fraction=0.2, split_seed=1)
    other.setup("fit")
    assert held_out(other) != held_out(data)


def run(undivided: Path, tmp_path: Path, epochs: int, **options: Any) -> DetectionDataModule:
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=epochs,
        logger=CSVLogger(tmp_path, "run", version=epochs), enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    data = module(undivided, val_fraction=0.2, **options)
    trainer.fit(Recorder(), datamodule=data, ckpt_path=tmp_path / "a.ckpt" if epochs > 1 else None)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    return data


def test_val_fraction__run__names_are_written_and_a_resume_keeps_them(
    undivided: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(undivided, tmp_path, 1)
    written = json.loads((tmp_path / "run/version_1/split.json").read_text())
    assert {Path(name).stem for name in written["val"]} == held_out(first)
    assert written["val"][0].startswith("images/")
    assert len(written["train"]) == 16
    assert (written["val_fraction"], written["split_seed"]) == (0.2, 0)
    assert written["root"] == str(undivided)

    scene = layouts.Scene("20", (64, 64), [("cat", 4, 4, 50, 50)])
    layouts.draw(undivided / "images", [scene])
    layouts.write_labels(undivided / "labels", [scene])
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        second = run(undivided, tmp_path, 2, split_seed=1)
    assert "the images held out are those of the checkpoint" in caplog.text
    assert held_out(second) == held_out(first)
    assert len(second.datasets["train"]) == 17
    assert second.train_sampler is not None
    assert second.train_sampler.length == 17
    again = json.loads((tmp_path / "run/version_2/split.json").read_text())
    assert again["val"] == written["val"]

    (undivided / "images" / f"{min(held_out(first))}.png").unlink()
    (undivided / "labels" / f"{min(held_out(first))}.txt").unlink()
    trainer = Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False)
    data = module(undivided, val_fraction=0.2, split_seed=1)
    with pytest.warns(UserWarning, match="1 images that the checkpoint held out are not there"):
        trainer.validate(Recorder(), datamodule=data, ckpt_path=tmp_path / "a.ckpt")
    assert held_out(data) == held_out(first) - {min(held_out(first))}


@pytest.mark.real_data
def test_detection_data_module__raccoons_in_yolo__first_batches_of_coco(
    real_data: Path, tmp_path: Path
) -> None:
    """Labels in six decimals move a box by less than a hundredth of a pixel.

    So do the batches of training, augmentation and all, where the order of the files is the same.
    """
    source = find_layout(real_data / "raccoon")
    for split in source.splits:
        truth = source.read(split)
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "images" / split).mkdir(parents=True)
        for row, path in enumerate(truth.images.paths):
            (tmp_path / "images" / split / Path(path).name).symlink_to(path)
            height, width = truth.images.sizes_hw[row]
            centers = truth.boxes_of(row).xywh.copy()
            centers[:, :2] += centers[:, 2:] / 2
            shares = centers / [width, height, width, height]
            text = "".join("0 {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*share) for share in shares)
            (tmp_path / "labels" / split / f"{Path(path).stem}.txt").write_text(text)
    places = "train: images/train\nval: images/val\n"
    (tmp_path / "data.yaml").write_text(f"{places}names: [raccoon]")
    options = {"size_hw": (64, 64), "num_workers": 0, "batch_size": 40}
    sides = [DetectionDataModule(root, **options) for root in (real_data / "raccoon", tmp_path)]
    ours, theirs = (next(iter(data.val_dataloader())) for data in sides)
    rows = [[Path(path).name for path in batch.paths] for batch in (ours, theirs)]
    order = [rows[1].index(name) for name in rows[0]]
    assert torch.equal(ours.images, theirs.images[order])
    assert torch.equal(ours.target.labels, theirs.target.labels[order])
    torch.testing.assert_close(ours.target.boxes, theirs.target.boxes[order], atol=0.01, rtol=0)

    convert_dataset(tmp_path, tmp_path / "coco", link=False, progress=False)
    sides[0] = DetectionDataModule(tmp_path / "coco", **options)
    for one, two in zip(*(data.train_dataloader() for data in sides), strict=True):
        assert torch.equal(one.images, two.images)
        torch.testing.assert_close(one.target.boxes, two.target.boxes, atol=1e-4, rtol=0)


@pytest.mark.real_data
def test_detection_data_module__real_sets__validate_whole(real_data: Path) -> None:
    for name, images, boxes, classes in (("raccoon", 40, 43, 1), ("coco", 188, 1692, 80)):
        data = DetectionDataModule(real_data / name, num_workers=0, size_hw=(32, 32))
        assert data.num_classes == classes
        seen = [(batch.image_ids, batch.target.labels) for batch in data.val_dataloader()]
        assert len(torch.cat([ids for ids, _ in seen]).unique()) == images
        assert sum(int((labels >= 0).sum()) for _, labels in seen) == boxes

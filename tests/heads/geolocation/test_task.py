import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.module import PhotoBatch
from mobilevision.datasets.synthetic.module import GeneratedWorldModule
from mobilevision.datasets.transforms.classification import WholeImage
from mobilevision.heads.geolocation import (
    CellClassifier,
    CellLoss,
    GeolocationTask,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> GeneratedWorldModule:
    root = tmp_path_factory.mktemp("world") / "data"
    data = GeneratedWorldModule(
        root, train_photos=60, val_photos=13, test_photos=0, max_photos=(30, 8), min_photos=1,
        size_hw=(64, 64), batch_size=12, num_workers=0,
        train_transform=WholeImage((64, 64)), val_transform=WholeImage((64, 64)),
    )  # fmt: skip
    data.prepare_data()
    return data


def make_task(world: GeneratedWorldModule, **options) -> GeolocationTask:
    seed_everything(1, verbose=False)
    backbone = MobileNetV1(0.25, out_strides=(16,), norm_momentum=0.3)
    return GeolocationTask(CellClassifier(backbone, world.num_classes), world.categories, **options)


def make_trainer(folder: Path, **options) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip


def first_batch(world: GeneratedWorldModule) -> PhotoBatch:
    world.setup("fit")
    return next(iter(world.train_dataloader()))


@pytest.mark.parametrize("tau_km", [None, 75.0])
def test_training__one_batch__is_learnt_to_the_right_cells(world, tau_km: float | None) -> None:
    batch = first_batch(world)
    task = make_task(world, loss=CellLoss(tau_km))
    task.use_cells(world.cell_tables)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.stack(list(task.losses(task(batch.images), batch).values())).sum()
        loss.backward()
        optimizer.step()
    task.eval()
    with torch.no_grad():
        for _ in range(30):  # the running statistics are those of this batch
            task.train()(batch.images)
        found = task.decoder(task.eval().probabilities(batch.images).numpy())
    expected = task.partitions[-1].assign(batch.latlng_deg.double().numpy())
    assert (found.cells == expected).mean() > 0.9


def test_fit_save_load_test__same_measures_and_cells(world, tmp_path: Path, capsys) -> None:
    task = make_task(world)
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(task, datamodule=world)
    assert "best constant" in capsys.readouterr().out
    first = json.loads((tmp_path / "geo_metrics.json").read_text())
    assert first["photos"] == 13
    assert set(first["within_km"]) == {"1", "25", "200", "750", "2500"}
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    network = CellClassifier(MobileNetV1(0.25, out_strides=(16,)), world.num_classes)
    back = GeolocationTask.load_from_checkpoint(
        tmp_path / "a.ckpt", network=network, categories=world.categories, weights_only=True
    )
    assert [len(each) for each in back.partitions] == world.num_classes
    assert back.partitions[-1].spread_km == pytest.approx(task.partitions[-1].spread_km)
    assert back.metadata["size_hw"] == [64, 64]
    make_trainer(tmp_path / "again").test(back, datamodule=world, verbose=False)
    again = json.loads((tmp_path / "again" / "geo_metrics.json").read_text())
    assert again == first
    assert len((tmp_path / "again" / "predictions.csv").read_text().splitlines()) == 14


def test_use_cells__of_other_data__refused(world) -> None:
    task = make_task(world)
    fewer = world.cell_tables[-1]._replace(tokens=list(world.cell_tables[-1].tokens)[::-1])
    with pytest.raises(DataError, match="Use the cells that the model was trained with"):
        task.use_cells((fewer,))


def test_partitions__nobody_said_what_they_are__says_what_to_do(world) -> None:
    with pytest.raises(DataError, match="which cells are the classes"):
        _ = make_task(world).partitions


def test_five_crop__mean_of_the_probabilities_of_five_parts(world) -> None:
    task = make_task(world, five_crop_hw=(48, 48)).eval()
    task.use_cells(world.cell_tables)
    images = first_batch(world).images[:2]
    with torch.no_grad():
        found = task.probabilities(images)
        corners = [(0, 0), (0, 16), (16, 0), (16, 16), (8, 8)]
        task.five_crop_hw = None
        parts = [task.probabilities(images[..., y : y + 48, x : x + 48]) for y, x in corners]
    assert torch.allclose(found, torch.stack(parts).mean(dim=0), atol=1e-6)


def test_five_crop__images_too_small__says_what_to_set(world) -> None:
    task = make_task(world, five_crop_hw=(80, 80)).eval()
    task.use_cells(world.cell_tables)
    with pytest.raises(DataError, match=r"data\.eval_size_hw"):
        task.probabilities(first_batch(world).images)


def test_losses__labels__are_the_cells_of_the_positions(world) -> None:
    task = make_task(world)
    task.use_cells(world.cell_tables)
    batch = first_batch(world)
    output = task(batch.images)
    losses = task.losses(output, batch)
    latlng_deg = batch.latlng_deg.double().numpy()
    for index, (logits, each) in enumerate(zip(output, task.partitions, strict=True)):
        cells = torch.from_numpy(each.assign(latlng_deg))
        known = cells >= 0
        assert np.any(known.numpy())
        expected = torch.nn.functional.cross_entropy(logits[known], cells[known])
        assert losses[f"cells_{index}"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_fit__enough_photos__calibration_is_kept_and_used(tmp_path: Path) -> None:
    data = GeneratedWorldModule(
        tmp_path / "data", train_photos=30, val_photos=60, test_photos=20, max_photos=(10,),
        min_photos=1, size_hw=(64, 64), batch_size=10, num_workers=0,
        train_transform=WholeImage((64, 64)), val_transform=WholeImage((64, 64)),
    )  # fmt: skip
    task = make_task(data)
    assert task.calibration.temperature == 1.0
    trainer = make_trainer(tmp_path / "fit", max_epochs=1)
    trainer.fit(task, datamodule=data)
    written = json.loads((tmp_path / "fit" / "geo_metrics.json").read_text())
    assert written["coverage_is_cross_fitted"]
    assert written["calibration"] == task.calibration.to_plain()
    assert task.calibration.photos == 60
    assert task.decoder.levels == task.calibration.levels
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    network = CellClassifier(MobileNetV1(0.25, out_strides=(16,)), data.num_classes)
    back = GeolocationTask.load_from_checkpoint(
        tmp_path / "a.ckpt", network=network, categories=data.categories, weights_only=True
    ).eval()
    assert back.calibration == task.calibration
    assert back.decoder.levels == task.calibration.levels
    images = next(iter(data.val_dataloader())).images
    with torch.no_grad():
        (logits,) = back(images)
        expected = (logits / task.calibration.temperature).softmax(dim=1)
        assert torch.allclose(back.probabilities(images), expected, atol=1e-6)
    make_trainer(tmp_path / "test").test(back, datamodule=data, verbose=False)
    tested = json.loads((tmp_path / "test" / "geo_metrics.json").read_text())
    assert (tested["dataset"], tested["photos"]) == ("data test", 20)
    assert tested["calibration"] == written["calibration"]
    assert not tested["coverage_is_cross_fitted"]

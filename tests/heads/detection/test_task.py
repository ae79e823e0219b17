from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from mobilevision.apps import Detector
from mobilevision.apps.inference.torch import run_task
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.detection.coco import COCO_CATEGORIES
from mobilevision.datasets.detection.module import DetectionDataModule
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.synthetic.detection import write_scenes
from mobilevision.datasets.transforms.detection import Resize
from mobilevision.heads.detection import SSD, DetectionTask
from mobilevision.heads.detection.weights import load_tensorflow_ssd
from mobilevision.heads.schedules import WarmupCosine


def trainer(tmp_path: Path, **options) -> Trainer:
    defaults = {
        "default_root_dir": tmp_path,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**(defaults | options))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("task") / "data"
    write_scenes(root, train=16, val=4, size_hw=(128, 128), seed=5, progress=False)
    return root


def data_module(scenes: Path, **options) -> DetectionDataModule:
    defaults = {"size_hw": (64, 64), "batch_size": 4, "num_workers": 0}
    return DetectionDataModule(scenes, **(defaults | options))


def task(data: DetectionDataModule, **options) -> DetectionTask:
    seed_everything(0)
    network = SSD(MobileNetV1(width_mult=0.25), num_classes=data.num_classes)
    return DetectionTask(network, data.categories, **options)


def test_one_batch__is_learned_by_heart(scenes: Path, tmp_path: Path) -> None:
    data = DetectionDataModule(
        scenes, size_hw=(128, 128), batch_size=4, num_workers=0,
        train_transform=Resize((128, 128)), val_transform=Resize((128, 128)),
    )  # fmt: skip
    data.splits["val"] = data.splits["train"]
    seed_everything(0)
    network = SSD(
        MobileNetV1(width_mult=0.5, out_strides=(8, 16, 32), norm_momentum=0.2),
        num_classes=8,
        extra_channels=(256, 256, 128),
    )
    model = DetectionTask(
        network, data.categories, optimizer=lambda groups: torch.optim.AdamW(groups, lr=3e-3)
    )
    run = trainer(tmp_path, max_epochs=120, overfit_batches=1, check_val_every_n_epoch=120)
    run.fit(model, datamodule=data)
    assert run.callback_metrics["val/AP"] >= 0.9

    best = model.analyze_errors().best
    assert best is not None
    assert best.f1 > 0.9
    run.save_checkpoint(tmp_path / "a.ckpt")
    entry = torch.load(tmp_path / "a.ckpt", weights_only=True)["mobilevision"]
    assert entry["score_threshold"] == best.threshold
    assert entry["score_threshold_from"] == data.datasets["val"].name
    assert Detector(run_task(Detector, model)).score_threshold == best.threshold
    # Another evaluation measures; the threshold stays that of the training.
    run.validate(model, data, verbose=False)
    assert model.metadata["score_threshold"] == best.threshold


def test_detections__are_in_pixels_of_the_original_images(scenes: Path, tmp_path: Path) -> None:
    seen = []

    class Look(Callback):
        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *rest) -> None:  # noqa: ARG002
            seen.append((outputs, batch, pl_module.network(batch.images)))

    data = data_module(scenes, size_hw=(64, 32))
    model = task(data)
    trainer(tmp_path, callbacks=[Look()]).validate(model, data, verbose=False)
    outputs, batch, raw = seen[0]
    assert batch.sizes_hw.tolist() == [[128, 128]] * 4
    in_input = model.network.eval().detect(raw, (64, 32))
    scaled = in_input.boxes * torch.tensor([4.0, 2.0, 4.0, 2.0])
    torch.testing.assert_close(outputs.boxes, scaled)


def test_validation__logs_losses_and_the_twelve_numbers(scenes: Path, tmp_path: Path) -> None:
    data = data_module(scenes)
    run = trainer(tmp_path)
    run.validate(task(data), data, verbose=False)
    logged = set(run.callback_metrics)
    assert {"val/loss", "val/loss_box", "val/loss_classification", "val/AP", "val/ARl"} <= logged
    assert (tmp_path / "coco_metrics.json").is_file()
    assert (tmp_path / "results.json").is_file()


def test_fit__that_finds_nothing__keeps_the_usual_threshold(scenes: Path, tmp_path: Path) -> None:
    data = data_module(scenes)
    model = task(data)
    trainer(tmp_path, max_epochs=1, limit_train_batches=1).fit(model, datamodule=data)
    assert model.metadata["score_threshold"] is None
    assert Detector(run_task(Detector, model)).score_threshold == 0.5


def test_loss__that_is_no_number_names_the_images(scenes: Path, tmp_path: Path) -> None:
    data = data_module(scenes)
    model = task(data)
    with torch.no_grad():
        model.network.predictors[0].classes.weight.fill_(torch.nan)
    with pytest.raises(
        DataError, match=r"train loss is not a finite number.*epoch 0, batch 0"
    ) as told:
        trainer(tmp_path, max_epochs=1).fit(model, datamodule=data)
    assert str(scenes / "train") in str(told.value)
    assert "learning rate" in str(told.value)


def test_optimizer__decays_weights_and_not_norms_or_biases(scenes: Path) -> None:
    model = task(data_module(scenes))
    decayed, plain = model.configure_optimizers().param_groups
    assert decayed["weight_decay"] > 0
    assert plain["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_checkpoint__of_a_task_built_in_python_holds_plain_data(
    scenes: Path, tmp_path: Path
) -> None:
    data = data_module(scenes)
    model = task(data, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1))
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    run.fit(model, datamodule=data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    network = SSD(MobileNetV1(width_mult=0.25), num_classes=8)
    again = DetectionTask.load_from_checkpoint(
        tmp_path / "a.ckpt", network=network, weights_only=True
    )
    assert again.categories == data.categories
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_weights__for_another_backbone_are_refused(scenes: Path, tmp_path: Path) -> None:
    data = data_module(scenes)
    network = SSD(FakeBackbone(), num_classes=8, extra_channels=(16,))
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    model = DetectionTask(network, data.categories, weights=str(tmp_path / "other.pth"))
    with pytest.raises(WeightsError, match=r"other\.pth: .* is missing.*FakeBackbone"):
        trainer(tmp_path, max_epochs=1).fit(model, datamodule=data)


def test_weights__of_another_activation__train_with_a_warning(scenes: Path, tmp_path: Path) -> None:
    data = data_module(scenes)
    backbone = {
        "class_path": "mobilevision.backbone.MobileNetV1",
        "init_args": {"width_mult": 0.25, "activation": "relu"},
    }
    state = MobileNetV1(width_mult=0.25).state_dict()
    content = {
        "state_dict": {f"network.backbone.{name}": value for name, value in state.items()},
        "hyper_parameters": {"network": {"init_args": {"backbone": backbone}}},
    }
    torch.save(content, tmp_path / "relu.ckpt")
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"relu\.ckpt was trained with relu, .* has relu6"):
        run.fit(task(data, weights=str(tmp_path / "relu.ckpt")), datamodule=data)
    assert run.global_step == 1


class FakeBackbone(torch.nn.Module):
    """The smallest thing behind the protocol."""

    def __init__(self) -> None:
        super().__init__()
        from mobilevision.backbone import FeatureInfo

        self.feature_info = FeatureInfo((4,), (16,))
        self.conv = torch.nn.Conv2d(3, 4, 16, 16)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.conv(images),)


def test_folded_weights__without_a_data_module_say_what_is_missing(
    scenes: Path, tmp_path: Path
) -> None:
    data = data_module(scenes)
    data.setup("fit")
    source = task(data)
    path = tmp_path / "folded.ckpt"
    torch.save(
        {
            "state_dict": source.state_dict(),
            "mobilevision": {"provenance": {"folded": True}},
            "hyper_parameters": {},
        },
        path,
    )
    with pytest.raises(DataError, match="a data module in place of loaders"):
        trainer(tmp_path, max_epochs=1).fit(
            task(data, weights=str(path)), data.train_dataloader(), data.val_dataloader()
        )


def test_any_backbone_behind_the_protocol__trains(scenes: Path, tmp_path: Path) -> None:
    data = data_module(scenes)
    model = DetectionTask(SSD(FakeBackbone(), 8, extra_channels=(16,)), data.categories)
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=1)
    run.fit(model, datamodule=data)
    assert torch.isfinite(run.callback_metrics["val/loss"])


def test_weights__of_any_backbone__are_loaded_when_training_starts(
    scenes: Path, tmp_path: Path
) -> None:
    data = data_module(scenes)
    trained = FakeBackbone()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.fill_(0.125)
    torch.save(trained.state_dict(), tmp_path / "backbone.pth")
    network = SSD(FakeBackbone(), 8, extra_channels=(16,))
    model = DetectionTask(network, data.categories, weights=str(tmp_path / "backbone.pth"))
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=0)
    run.fit(model, datamodule=data)
    assert all((value == 0.125).all() for value in network.backbone.parameters())  # type: ignore[union-attr]


@pytest.mark.real_data
def test_folded_weights__are_loaded_and_calibrated_when_training_starts(
    real_data: Path, scenes: Path, tmp_path: Path
) -> None:
    data = data_module(scenes, batch_size=16)
    model = task(data, weights=str(real_data / "weights/mobilenet_v1_0.25_128.npz"))
    before = model.network.backbone.stem.conv.weight.clone()
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=0)
    run.fit(model, datamodule=data)
    norm = model.network.backbone.blocks[5].pointwise.norm
    assert not torch.equal(model.network.backbone.stem.conv.weight, before)
    assert (norm.running_var != 1).all(), "the statistics are those of the images"
    batch = next(iter(data.train_dataloader()))
    pixels = (batch.images.float() - 127.5) / 127.5
    with torch.inference_mode():
        evaluated = model.network.backbone.eval()(pixels)[0]
        trained = model.network.backbone.train()(pixels)[0]
    assert (
        torch.nn.functional.cosine_similarity(evaluated.flatten(), trained.flatten(), dim=0) > 0.9
    )


@pytest.mark.real_data
@pytest.mark.slow
def test_one_batch_of_coco__is_learned_by_heart(real_data: Path, tmp_path: Path) -> None:
    data = DetectionDataModule(
        real_data / "coco", size_hw=(300, 300), batch_size=4, num_workers=0,
        train_transform=Resize((300, 300)), val_transform=Resize((300, 300)),
    )  # fmt: skip
    data.splits["val"] = data.splits["train"]
    seed_everything(1)
    network = SSD(MobileNetV1(width_mult=0.5, norm_momentum=0.1), data.num_classes)
    model = DetectionTask(
        network,
        data.categories,
        weights=str(real_data / "weights/mobilenet_v1_0.50_160.npz"),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=2e-3),
        lr_scheduler=lambda optimizer, steps: WarmupCosine(optimizer, steps, warmup_steps=15),
        channels_last=True,
    )
    run = trainer(tmp_path, max_epochs=150, overfit_batches=1, check_val_every_n_epoch=150)
    run.fit(model, datamodule=data)
    assert run.callback_metrics["val/AP"] >= 0.9


@pytest.mark.real_data
def test_whole_path__gives_the_recorded_coco_numbers(real_data: Path, tmp_path: Path) -> None:
    """Data module, task and evaluator together, against an independent float32 implementation."""
    names = {number: COCO_CATEGORIES.get(number, f"unused {number}") for number in range(1, 91)}
    data = DetectionDataModule(
        real_data / "coco", categories=names, size_hw=(300, 300), batch_size=16, num_workers=0
    )
    network = load_tensorflow_ssd(
        real_data / "weights/ssd_mobilenet_v1_0.75_coco_300.npz", width_mult=0.75
    )
    run = trainer(tmp_path)
    run.validate(DetectionTask(network, names, channels_last=True), data, verbose=False)
    found = {key: run.callback_metrics[f"val/{key}"].item() for key in ("AP", "AP50", "AR100")}
    assert found == pytest.approx({"AP": 0.1958, "AP50": 0.3466, "AR100": 0.3198}, abs=1e-3)
    assert np.isfinite(run.callback_metrics["val/loss"].item())

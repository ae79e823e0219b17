"""Every option of SSD trains, alone and together, and survives what real batches hold."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.flop_counter import FlopCounterMode

from mobilevision.apps.cli import lightning
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.detection.module import DetectionDataModule
from mobilevision.datasets.synthetic.detection import write_scenes
from mobilevision.datasets.transforms.detection import Resize
from mobilevision.datasets.types import DetectionTarget, stack_targets
from mobilevision.heads.detection import (
    SSD,
    AnchorLoss,
    ATSSAssigner,
    DepthwisePredictors,
    DetectionTask,
    FeaturePyramid,
    FocalLoss,
    IoUBoxLoss,
    MinedCrossEntropy,
    MultiBoxLoss,
    MultiscaleAnchors,
    SharedPredictors,
    SimOTAAssigner,
)

SIZE = 128
OPTIONS = {
    "depthwise": lambda: {"predictors": DepthwisePredictors, "depthwise_extras": True},
    "focal softmax": lambda: {"loss": AnchorLoss(classification=FocalLoss())},
    "focal sigmoid": lambda: {
        "loss": AnchorLoss(classification=FocalLoss()), "score_activation": "sigmoid"},
    "giou": lambda: {"loss": AnchorLoss(box=IoUBoxLoss("giou"))},
    "ciou": lambda: {"loss": AnchorLoss(box=IoUBoxLoss("ciou"))},
    "atss": lambda: {"loss": AnchorLoss(assigner=ATSSAssigner())},
    "simota": lambda: {"loss": AnchorLoss(assigner=SimOTAAssigner())},
    "all": lambda: {
        "predictors": DepthwisePredictors, "depthwise_extras": True, "score_activation": "sigmoid",
        "loss": AnchorLoss(SimOTAAssigner(), FocalLoss(), IoUBoxLoss("ciou"), 2.0)},
    "pyramid": lambda: {
        "extra_channels": (), "score_activation": "sigmoid",
        "anchors": MultiscaleAnchors(), "predictors": SharedPredictors,
        "loss": AnchorLoss(ATSSAssigner(), FocalLoss(), IoUBoxLoss("giou"))},
}  # fmt: skip


def ssd(option: str, num_classes: int = 3) -> SSD:
    torch.manual_seed(0)
    backbone = MobileNetV1(width_mult=0.25, out_strides=(8, 16, 32), norm_momentum=0.2)
    if option == "pyramid":
        return SSD(FeaturePyramid(backbone, channels=24), num_classes, **OPTIONS[option]())
    return SSD(backbone, num_classes, **({"extra_channels": (64, 64)} | OPTIONS[option]()))


def random_images(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8)


def objects(count: int = 4, num_classes: int = 3) -> DetectionTarget:
    boxes = torch.tensor(
        [[0.0, 0.0, 20.0, 20.0], [10.0, 10.0, 120.0, 120.0], [0.0, 0.0, 127.0, 127.0],
         [40.0, 40.0, 86.0, 86.0], [30.0, 0.0, 60.0, 60.0], [0.0, 70.0, 110.0, 128.0]]
    )  # fmt: skip
    labels = torch.arange(6) % num_classes
    return stack_targets([boxes] * count, [labels] * count, [torch.zeros(6).bool()] * count)


@pytest.mark.parametrize("option", OPTIONS)
def test_option__lowers_its_loss_on_one_batch(option: str) -> None:
    model, images, target = ssd(option).train(), random_images(), objects()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        losses = model.compute_losses(model(images), target)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    for name in ("classification", "box"):
        # assigners that look at predictions may move a part up for a step: compare the ends
        assert sum(h[name] for h in history[-3:]) / 3 < 0.8 * history[0][name], (name, history)


@pytest.mark.parametrize("option", OPTIONS)
def test_option__gives_every_parameter_a_gradient(option: str) -> None:
    model = ssd(option).train()
    model.loss = model.loss or MultiBoxLoss()
    if isinstance(model.loss.classification, MinedCrossEntropy):
        model.loss.classification.min_negatives = 5000  # so that every map has a negative
    losses = model.compute_losses(model(random_images()), objects())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if "boxes" not in name and "box_tower" not in name:  # a map may have no positive anchor
            assert parameter.grad.abs().sum() > 0, name
    boxes = [p.grad.abs().sum() for name, p in model.named_parameters()
             if "predictors" in name and "box" in name and p.grad is not None]  # fmt: skip
    assert sum(float(value) > 0 for value in boxes) >= len(boxes) / 2


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_option__takes_empty_and_crowded_images_one_class_and_bfloat16(
    option: str, num_classes: int
) -> None:
    model = ssd(option, num_classes).train()
    full = objects(2, num_classes)
    none = DetectionTarget(full.boxes[:, :0], full.labels[:, :0], full.crowd[:, :0])
    crowded = full._replace(crowd=torch.ones_like(full.crowd))
    mixed = full._replace(labels=torch.stack([full.labels[0], torch.full((6,), -1)]))
    for target in (none, crowded, mixed):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(random_images(2))
            losses = model.compute_losses(output, target)
        for value in losses.values():
            assert value.dtype == torch.float32
            assert torch.isfinite(value)
        assert (losses["box"] == 0) == (target is not mixed)
        torch.stack(list(losses.values())).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        with torch.inference_mode():
            found = model.detect(output, (SIZE, SIZE))
        assert found.labels.max() < num_classes


def test_pyramid__learns_a_batch_of_scenes_by_heart(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", train=4, val=1, size_hw=(SIZE, SIZE), seed=5, progress=False)
    data = DetectionDataModule(
        tmp_path / "data", size_hw=(SIZE, SIZE), batch_size=4, num_workers=0,
        train_transform=Resize((SIZE, SIZE)), val_transform=Resize((SIZE, SIZE)),
    )  # fmt: skip
    data.splits["val"] = data.splits["train"]
    model = DetectionTask(
        ssd("pyramid", data.num_classes), data.categories,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=3e-3),
    )  # fmt: skip
    run = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        max_epochs=80, overfit_batches=1, check_val_every_n_epoch=80,
    )  # fmt: skip
    run.fit(model, datamodule=data)
    assert run.callback_metrics["val/AP50"] >= 0.8


def test_weights__reach_the_backbone_inside_a_pyramid(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = MobileNetV1(width_mult=0.25).state_dict()
    path = tmp_path / "backbone.ckpt"
    torch.save({"state_dict": {f"network.backbone.{k}": v for k, v in trained.items()}}, path)
    write_scenes(tmp_path / "data", train=2, val=1, size_hw=(64, 64), seed=5, progress=False)
    data = DetectionDataModule(tmp_path / "data", size_hw=(SIZE, SIZE), batch_size=2, num_workers=0)
    model = DetectionTask(ssd("pyramid", data.num_classes), data.categories, weights=str(path))
    Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, max_steps=0,
    ).fit(model, datamodule=data)  # fmt: skip
    for name, value in model.network.backbone.body.state_dict().items():
        assert torch.equal(value, trained[name]), name


def test_ssdlite__has_the_published_parameters_and_cost() -> None:
    """Sandler et al. 2018, Table 6: "MNet V1 + SSDLite" at 320 px, 5.1 M and 1.3 B."""
    model = SSD(
        MobileNetV1(), num_classes=80, depthwise_extras=True, predictors=DepthwisePredictors
    ).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 320, 320, dtype=torch.uint8))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 5.10
    assert round(counter.get_total_flops() / 2 / 1e9, 2) == 1.31


def test_options__come_from_the_command_line_and_back_from_a_checkpoint(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "data", train=2, val=1, size_hw=(96, 96), seed=1, progress=False)
    here = "mobilevision.heads.detection"
    network = "--model.network"
    lightning(
        ["fit", "-c", str(repository / "configs" / "ssd300.yaml"), "--model.weights=null",
         "--data.root=data", "--data.size_hw=[96, 96]", "--data.batch_size=2",
         "--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.max_epochs=1",
         "--trainer.precision=32-true", "--trainer.enable_progress_bar=false",
         f"{network}.backbone.width_mult=0.25", f"{network}.score_activation=sigmoid",
         f"{network}.predictors={here}.DepthwisePredictors", f"{network}.depthwise_extras=true",
         f"{network}.loss={here}.AnchorLoss", f"{network}.loss.assigner={here}.ATSSAssigner",
         f"{network}.loss.assigner.cells_per_map=5",
         f"{network}.loss.classification={here}.FocalLoss",
         f"{network}.loss.box={here}.IoUBoxLoss", f"{network}.loss.box.kind=ciou",
         f"{network}.loss.box_weight=2.0"]
    )  # fmt: skip
    path = tmp_path / "runs" / "ssd300" / "version_0" / "checkpoints" / "last.ckpt"
    loaded = DetectionTask.load_from_checkpoint(path, map_location="cpu").network
    assert isinstance(loaded, SSD)
    assert isinstance(loaded.predictors, DepthwisePredictors)
    assert isinstance(loaded.loss.assigner, ATSSAssigner)
    assert isinstance(loaded.loss.box, IoUBoxLoss)
    assert (loaded.loss.assigner.cells_per_map, loaded.loss.box.kind) == (5, "ciou")
    assert loaded.loss.box_weight == 2.0

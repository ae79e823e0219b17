import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn

from mobilevision.apps.callbacks.averaging import RampedEMA
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.backbone.mobilenet import FeatureInfo
from mobilevision.datasets.detection.module import DetectionDataModule
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.synthetic.detection import write_scenes
from mobilevision.heads.classification.model import Classifier
from mobilevision.heads.classification.task import ClassificationTask
from mobilevision.heads.detection import (
    SSD,
    DetectionTask,
    FasterRCNN,
    FeaturePyramid,
    MultiscaleAnchors,
    SharedPredictors,
)
from mobilevision.heads.face_attributes.model import AttributeNetwork
from mobilevision.heads.face_embedding.model import FaceNetwork
from mobilevision.heads.faces.model import FacesNetwork
from mobilevision.heads.finetuning import frozen_modules, start_from
from mobilevision.heads.geolocation.model import CellClassifier

OLD = ["cup", "spoon", "dog"]


def fresh(seed: int, make: Any, *arguments: Any, **options: Any) -> Any:
    """A network whose every tensor differs from those of other seeds, statistics too."""
    seed_everything(seed, verbose=False)
    network = make(*arguments, **options)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)
    return network


def ssd(seed: int, num_classes: int, **options: Any) -> SSD:
    return fresh(seed, lambda: SSD(MobileNetV1(0.25), num_classes, **options))


def save(
    path: Path, network: nn.Module, names: list[str], activation: str = "softmax", **entry: Any
) -> Path:
    """Write a checkpoint as training on the command line does."""
    backbone = {
        "class_path": "mobilevision.backbone.MobileNetV1",
        "init_args": {"width_mult": getattr(network.backbone, "width_mult", 0.25)},
    }
    spec = {
        "class_path": "mobilevision.heads.detection.SSD",
        "init_args": {"backbone": backbone, "score_activation": activation},
    }
    content = {
        "state_dict": {f"network.{name}": x for name, x in network.state_dict().items()},
        "hyper_parameters": {"network": spec, "categories": dict(enumerate(names, start=1))},
        "mobilevision": {"format": 1, **entry},
    }
    torch.save(content, path)
    return path


def cells(table: str, part: str) -> list[str]:
    """The number of tensors loaded, adapted, new and left of a part."""
    line = next(each for each in table.splitlines() if each.startswith(f"  {part}  "))
    return [word for word in line[2 + len(part) :].split() if not word.startswith("(")]


def columns(network: SSD, index: int = 2) -> tuple[Tensor, Tensor]:
    """Weights (boxes, columns, channels) and biases (boxes, columns) of a predictor's classes."""
    layer = network.predictors.class_layers()[index]
    columns = network.num_classes + 1
    assert layer.bias is not None
    return layer.weight.view(-1, columns, layer.in_channels), layer.bias.view(-1, columns)


def test_start_from__the_same_network__is_the_same_network(tmp_path: Path) -> None:
    source, network = ssd(1, 3), ssd(2, 3)
    start = start_from(network, OLD, save(tmp_path / "a.ckpt", source, OLD))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        mine, theirs = network.eval()(images), source.eval()(images)
    assert torch.equal(mine.class_logits, theirs.class_logits)
    assert torch.equal(mine.box_deltas, theirs.box_deltas)
    assert cells(start.table, "backbone") == ["81", "-", "-", "-"]
    assert cells(start.table, "extras") == ["24", "-", "-", "-"]
    assert cells(start.table, "predictors") == ["12", "-", "-", "-"]
    assert cells(start.table, "predictors, classes") == ["12", "-", "-", "-"]
    assert start.folded == []
    total = sum(parameter.numel() for parameter in network.parameters())
    counted = [word for word in start.table.replace(",", "").split() if word.startswith("(")]
    assert sum(int(word[1:-1]) for word in counted if word[1:-1].isdecimal()) == total


def test_start_from__classes_in_another_order__rows_follow_their_names(tmp_path: Path) -> None:
    source, network = ssd(1, 3), ssd(2, 3)
    names = ["Dog", "cup", "SPOON"]
    start = start_from(network, names, save(tmp_path / "a.ckpt", source, OLD))
    for index in range(6):
        for new, old in zip(columns(network, index), columns(source, index), strict=True):
            assert torch.equal(new, old[:, [0, 3, 1, 2]])
    assert cells(start.table, "predictors, classes") == ["-", "12", "-", "-"]
    assert "3 of 3 are among the file's 3 (Dog, cup, SPOON); new: 0" in start.table


def test_start_from__some_classes_and_others__background_stays_and_new_ones_are_rare(
    tmp_path: Path,
) -> None:
    source, network = ssd(1, 3), ssd(2, 4)
    before = [each.clone() for each in columns(network)]
    start = start_from(
        network, ["cat", "dog", "gnu", "cup"], save(tmp_path / "a.ckpt", source, OLD)
    )
    (weight, bias), (old_weight, old_bias) = columns(network), columns(source)
    assert torch.equal(weight[:, [0, 2, 4]], old_weight[:, [0, 3, 1]])
    assert torch.equal(bias[:, [0, 2, 4]], old_bias[:, [0, 3, 1]])
    assert torch.equal(weight[:, [1, 3]], before[0][:, [1, 3]]), "as the network draws them"
    margin = before[1][:, [1, 3]] - before[1][:, :1]
    torch.testing.assert_close(bias[:, [1, 3]] - bias[:, :1], margin)
    assert "2 of 4 are among the file's 3 (dog, cup); new: 2 (cat, gnu)" in start.table


def test_start_from__no_class_in_common__background_alone(tmp_path: Path) -> None:
    source, network = ssd(1, 3), ssd(2, 1)
    start = start_from(network, ["cat"], save(tmp_path / "a.ckpt", source, OLD))
    assert torch.equal(columns(network)[0][:, 0], columns(source)[0][:, 0])
    assert "0 of 1 are among the file's 3; new: 1 (cat)" in start.table


def test_start_from__other_extra_maps__layers_that_fit_alone(tmp_path: Path) -> None:
    source, network = ssd(1, 3), ssd(2, 3, extra_channels=(512, 512, 256))
    before = copy.deepcopy(network.state_dict())
    start = start_from(network, OLD, save(tmp_path / "a.ckpt", source, OLD))
    new, old = network.state_dict(), source.state_dict()
    for name in new:
        same = name in old and new[name].shape == old[name].shape
        # Of these layers a tensor has another width.
        whole = same and not name.startswith(("extras.1.", "extras.2.reduce.", "predictors.3."))
        assert torch.equal(new[name], (old if whole else before)[name]), name
    # Normalization of as many channels behind a convolution that does not fit is left, too.
    assert old["extras.2.reduce.norm.weight"].shape == new["extras.2.reduce.norm.weight"].shape
    assert cells(start.table, "extras") == ["9", "-", "9", "15"]


def test_start_from__feature_pyramid__and_from_a_plain_detector_its_body(tmp_path: Path) -> None:
    def pyramid(seed: int, coarser_maps: int = 2) -> SSD:
        return fresh(
            seed,
            lambda: SSD(
                FeaturePyramid(
                    MobileNetV1(0.25, out_strides=(8, 16, 32)), 32, coarser_maps=coarser_maps
                ),
                2,
                extra_channels=(),
                predictors=partial(SharedPredictors, depth=1),
                anchors=MultiscaleAnchors(strides=(8, 16, 32, 64, 128)[: 3 + coarser_maps]),
            ),
        )

    source, network = pyramid(1), pyramid(2)
    start = start_from(network, ["a", "b"], save(tmp_path / "a.ckpt", source, ["a", "b"]))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name
    assert cells(start.table, "backbone")[1:] == ["-", "-", "-"]

    shallow = pyramid(3, coarser_maps=1)
    start = start_from(shallow, ["a", "b"], tmp_path / "a.ckpt")
    assert cells(start.table, "backbone")[2:] == ["-", "3"], "one coarser map less"

    network, plain = pyramid(4), ssd(5, 2)
    before = copy.deepcopy(network.state_dict())
    start = start_from(network, ["a", "b"], save(tmp_path / "b.ckpt", plain, ["a", "b"]))
    for name, tensor in network.state_dict().items():
        body = name.replace("backbone.body.", "backbone.")
        expected = plain.state_dict()[body] if "backbone.body." in name else before[name]
        assert torch.equal(tensor, expected), name


def test_start_from__another_width__is_the_error_of_the_backbone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", ssd(1, 3), OLD)
    with pytest.raises(WeightsError, match=r"width_mult=0\.25, the backbone has width_mult=0\.5"):
        start_from(SSD(MobileNetV1(0.5), 3), OLD, path)


def test_start_from__other_kind_of_scores__are_the_same_for_one_class(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for given, wanted in (("sigmoid", "softmax"), ("softmax", "sigmoid")):
        source = ssd(1, 1, score_activation=given).eval()
        network = ssd(2, 1, score_activation=wanted).eval()
        start = start_from(network, ["cup"], save(tmp_path / "a.ckpt", source, ["cup"], given))
        with torch.inference_mode():
            theirs = source.scores(source(images))
            torch.testing.assert_close(network.scores(network(images)), theirs)
        assert theirs.std() > 0
        assert f"the file's are {given}, the network's {wanted}" in start.table
        assert cells(start.table, "predictors, classes") == ["-", "12", "-", "-"]


def test_start_from__other_kind_of_scores_and_classes__starts_them_new(tmp_path: Path) -> None:
    source, network = ssd(1, 3, score_activation="sigmoid"), ssd(2, 3)
    before = [each.clone() for each in columns(network)]
    start = start_from(network, ["a", "b", "c"], save(tmp_path / "a.ckpt", source, OLD, "sigmoid"))
    assert all(torch.equal(*pair) for pair in zip(columns(network), before, strict=True))
    assert cells(start.table, "predictors, classes") == ["-", "-", "12", "12"]
    assert "0 of 3 are among the file's 3; new: 3 (a, b, c)" in start.table
    assert "the network's softmax; background starts new, too" in start.table


def test_start_from__faster_rcnn__boxes_follow_their_classes_and_a_detector_gives_its_backbone(
    tmp_path: Path,
) -> None:
    def rcnn(seed: int, width: float, num_classes: int) -> FasterRCNN:
        return fresh(seed, lambda: FasterRCNN(MobileNetV1(width, out_strides=(16,)), num_classes))

    for width in (0.25, 1.0):  # at 1 the second stage may have weights of a backbone
        source, network = rcnn(1, width, 3), rcnn(2, width, 2)
        before = copy.deepcopy(network.state_dict())
        start_from(network, ["dog", "gnu"], save(tmp_path / "a.ckpt", source, OLD))
        new, old = network.state_dict(), source.state_dict()
        for name in new.keys() - {f"roi.{x}" for x in ("classes.weight", "classes.bias",
                                                       "boxes.weight", "boxes.bias")}:  # fmt: skip
            assert torch.equal(new[name], old[name]), name
        assert torch.equal(new["roi.boxes.weight"][:4], old["roi.boxes.weight"][8:])
        assert torch.equal(new["roi.boxes.weight"][4:], before["roi.boxes.weight"][4:])
        assert torch.equal(new["roi.classes.weight"][:2], old["roi.classes.weight"][[0, 3]])

    wide = fresh(3, lambda: SSD(MobileNetV1(1.0), 3))
    start_from(network, ["dog", "gnu"], save(tmp_path / "b.ckpt", wide, OLD))
    mine, theirs = network.state_dict(), wide.state_dict()
    last = "pointwise.conv.weight"
    assert torch.equal(mine[f"roi.blocks.1.{last}"], theirs[f"backbone.blocks.12.{last}"])

    back = fresh(4, lambda: SSD(MobileNetV1(1.0), 3))
    start = start_from(back, OLD, save(tmp_path / "c.ckpt", source, OLD))
    assert cells(start.table, "backbone") == ["69", "-", "12", "-"]
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(back.state_dict()[f"backbone.{name}"], tensor), name
    assert len(back.backbone.blocks) == 13


def backbone() -> MobileNetV1:
    return MobileNetV1(0.25, out_strides=(32,))


OTHER_JOBS: dict[str, tuple[Any, str]] = {
    "classification": (lambda count: Classifier(backbone(), count), "classifier"),
    "attributes": (lambda count: AttributeNetwork(backbone(), count), "head.attributes"),
    "faces": (lambda count: FacesNetwork(backbone(), count, 8), "attributes.attributes"),
    "geolocation": (lambda count: CellClassifier(backbone(), (1, count - 1)), "classifier"),
}


@pytest.mark.parametrize("job", OTHER_JOBS)
def test_start_from__other_jobs__rows_follow_their_names(job: str, tmp_path: Path) -> None:
    make, layer = OTHER_JOBS[job]
    source, network = fresh(1, make, 3), fresh(2, make, 4)
    before = copy.deepcopy(network.state_dict())
    tables = [{"tokens": OLD[:1]}, {"tokens": OLD[1:]}]
    entry = {"cells": tables} if job == "geolocation" else {}
    path = save(tmp_path / "a.ckpt", source, OLD[len(entry) :], **entry)
    start = start_from(network, ["gnu", "dog", "cat", "cup"], path)
    new, old = network.state_dict(), source.state_dict()
    for name in new:
        if name.rpartition(".")[0] == layer:
            assert torch.equal(new[name][[1, 3]], old[name][[2, 0]])
            assert torch.equal(new[name][[0, 2]], before[name][[0, 2]])
        else:
            assert torch.equal(new[name], old[name]), name
    assert "(dog, cup); new: 2 (gnu, cat)" in start.table


def test_start_from__embeddings_from_faces__the_backbone_and_nothing_by_chance(
    tmp_path: Path,
) -> None:
    source = fresh(1, lambda: FacesNetwork(backbone(), 3, 8))
    network = fresh(2, lambda: FaceNetwork(backbone(), 8, norm=True))
    start = start_from(network, [], save(tmp_path / "a.ckpt", source, OLD))
    assert cells(start.table, "backbone") == ["81", "-", "-", "-"]
    assert cells(start.table, "head") == ["-", "-", "3", "-"]
    assert cells(start.table, "embedding") == ["-", "-", "-", "2"]


class Own(nn.Module):
    """A backbone of somebody else in a network that knows nothing of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_info = FeatureInfo((4,), (16,))
        self.conv = nn.Conv2d(3, 4, 16, 16)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.conv(images),)


class OwnNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Own()
        self.last = nn.Linear(4, 3)


def test_start_from__networks_of_others__by_name_and_shape(tmp_path: Path) -> None:
    source, network = fresh(1, OwnNetwork), fresh(2, OwnNetwork)
    start = start_from(network, OLD, save(tmp_path / "a.ckpt", source, OLD))
    assert all(
        torch.equal(new, old)
        for new, old in zip(network.parameters(), source.parameters(), strict=True)
    )
    assert cells(start.table, "last") == ["2", "-", "-", "-"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content["hyper_parameters"].update(network={"class_path": "os.system"}),
        lambda content: content["hyper_parameters"].update(_instantiator="os.system"),
        lambda content: content["state_dict"].update({"network.extras.0": "text"}),
        lambda content: content["state_dict"].update(
            {"network.extras.0.x": torch.zeros(2, 2).to_sparse()}
        ),
        lambda content: content.update(hyper_parameters=[1]),
        lambda content: content.update(mobilevision="text"),
        lambda content: content.update(state_dict={}),
    ],
)
def test_start_from__hostile_and_odd_files__refused_untouched(harm: Any, tmp_path: Path) -> None:
    network = ssd(2, 3)
    before = copy.deepcopy(network.state_dict())
    path = save(tmp_path / "a.ckpt", ssd(1, 3), OLD)
    content = torch.load(path, weights_only=True)
    harm(content)
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"a\.ckpt: "):
        start_from(network, OLD, path)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())


def test_start_from__odd_names_of_classes__start_new(tmp_path: Path) -> None:
    for names in (["cup"], [], [["cup"], 2, None]):
        path = save(tmp_path / "a.ckpt", ssd(1, 3), names)  # type: ignore[arg-type]
        start = start_from(ssd(2, 3), OLD, path)
        assert cells(start.table, "extras") == ["24", "-", "-", "-"]
    assert "0 of 3 are among the file's 3" in start.table


# --- public files


@pytest.mark.real_data
def test_start_from__public_detector__finds_as_before_after_calibration(
    real_data: Path, scenes: Path, tmp_path: Path
) -> None:
    path = real_data / "weights/detect.tflite"
    names = ["dog", "zebra", "gnu"]
    images = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    network = SSD(MobileNetV1(0.75), 3, score_activation="sigmoid").eval()
    start = start_from(network, names, path)
    assert len(start.folded) == 8, "the extra maps'"
    assert start.weights.folded
    with torch.inference_mode():
        before = network(images)
    task = DetectionTask(network, dict(enumerate(names)), weights=str(path))
    data = DetectionDataModule(scenes, size_hw=(300, 300), batch_size=4, num_workers=0)
    trainer(tmp_path, max_epochs=1, limit_train_batches=0).fit(task, datamodule=data)
    norm = network.extras[3].shrink.norm
    assert (norm.running_var != 1).all(), "the statistics are those of the images"
    with torch.inference_mode():
        after = network.eval()(images)
    torch.testing.assert_close(after.box_deltas, before.box_deltas, rtol=1e-3, atol=1e-3)
    known = [1, 2]
    torch.testing.assert_close(
        after.class_logits[..., known], before.class_logits[..., known], rtol=1e-3, atol=1e-3
    )


@pytest.mark.real_data
def test_start_from__public_classifier__rows_of_imagenet(real_data: Path) -> None:
    network = Classifier(MobileNetV1(0.25), 3)
    start = start_from(
        network, ["zebra", "gnu", "tench"], real_data / "weights/mobilenet_v1_0.25_128.npz"
    )
    assert "2 of 3 are among the file's 1000 (zebra, tench); new: 1 (gnu)" in start.table
    assert cells(start.table, "classifier, classes") == ["-", "2", "-", "-"]


# --- freezing


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finetuning") / "data"
    write_scenes(root, train=8, val=2, size_hw=(64, 64), seed=5, progress=False)
    return root


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "default_root_dir": tmp_path,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**(quiet | options))


STAGE_OF_BLOCK = [1, 2, 2, 3, 3, *[4] * 6, *[5] * 2]


def test_stages__of_mobilenet__end_where_the_stride_doubles() -> None:
    backbone = MobileNetV1(0.25)
    stages = backbone.stages
    assert stages[0][0] is backbone.stem
    for block, stage in zip(backbone.blocks, STAGE_OF_BLOCK, strict=True):
        assert any(each is block for each in stages[stage - 1])
    assert [len(stage) for stage in MobileNetV1(0.25, out_strides=(8,)).stages] == [2, 2, 2]


def frozen(name: str, freeze: str) -> bool:
    """Whether a tensor of an SSD is to stay, written down apart from the implementation."""
    if freeze == "norms":
        return ".norm." in name
    if freeze == "backbone":
        return name.startswith("backbone.")
    last = int(freeze[-1])
    if name.startswith("backbone.blocks."):
        return STAGE_OF_BLOCK[int(name.split(".")[2])] <= last
    return name.startswith("backbone.stem.")


@pytest.mark.parametrize("freeze", ["backbone", "norms", "stage:3"])
def test_freeze__real_steps__keep_weights_and_statistics_of_frozen_layers_alone(
    freeze: str, scenes: Path, tmp_path: Path
) -> None:
    data = DetectionDataModule(scenes, size_hw=(64, 64), batch_size=4, num_workers=0)
    network = SSD(MobileNetV1(0.25), data.num_classes)
    task = DetectionTask(
        network,
        data.categories,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2),
        freeze=freeze,
        decay_depthwise=False,
    )
    before = copy.deepcopy(network.state_dict())
    run = trainer(
        tmp_path, max_epochs=2, check_val_every_n_epoch=1, callbacks=[RampedEMA(decay=0.9)]
    )
    run.fit(task, datamodule=data)
    assert run.global_step == 4
    for name, tensor in network.state_dict().items():
        if frozen(name, freeze):
            assert torch.equal(tensor, before[name]), name
        elif "running" in name or name.startswith("predictors.0"):
            assert not torch.equal(tensor, before[name]), name
    optimized = {id(x) for group in run.optimizers[0].param_groups for x in group["params"]}
    for name, parameter in network.named_parameters():
        assert (id(parameter) in optimized) != frozen(name, freeze), name
        assert parameter.requires_grad != frozen(name, freeze), name


@pytest.mark.parametrize("freeze", ["backbone", "norms", "stage:1", "stage:5"])
def test_freeze__train__leaves_frozen_layers_in_evaluation_mode(freeze: str) -> None:
    task = DetectionTask(ssd(1, 2), {1: "a", 2: "b"}, freeze=freeze)
    task.eval()
    for each in (task.train(), copy.deepcopy(task).train()):
        for name, module in each.network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.training != frozen(f"{name}.", freeze), name
        assert each.training
        assert each.network.training
        assert each.network.predictors.training
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(task).train()
    norms = [x for x in converted.modules() if isinstance(x, nn.SyncBatchNorm)]
    assert len(norms) == 35
    assert sum(not norm.training for norm in norms) == {"stage:1": 3, "norms": 35}.get(freeze, 27)


def test_freeze__a_pyramid__trains_what_is_around_the_backbone() -> None:
    network = SSD(
        FeaturePyramid(MobileNetV1(0.25, out_strides=(8, 16, 32)), 32),
        2,
        extra_channels=(),
        predictors=partial(SharedPredictors, depth=1),
        anchors=MultiscaleAnchors(),
    )
    assert frozen_modules(network, "backbone") == [network.backbone.body]


@pytest.mark.parametrize("freeze", ["backbones", "stage:0", "stage:6", "stage:", "3", ""])
def test_freeze__unknown__names_what_there_is(freeze: str) -> None:
    with pytest.raises(DataError, match=r"norms, backbone, stage:1, stage:2, .*stage:5, or null"):
        DetectionTask(ssd(1, 2), {1: "a", 2: "b"}, freeze=freeze)


def test_freeze__backbone_without_stages__names_what_there_is() -> None:
    with pytest.raises(DataError, match="choose among norms, backbone, or null"):
        DetectionTask(SSD(Own(), 2, extra_channels=(16,)), {1: "a", 2: "b"}, freeze="stage:1")


def test_freeze__without_weights__warns(scenes: Path, tmp_path: Path) -> None:
    data = DetectionDataModule(scenes, size_hw=(64, 64), batch_size=4, num_workers=0)
    network = ssd(1, data.num_classes)
    task = DetectionTask(network, data.categories, freeze="backbone")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=1)
    with pytest.warns(UserWarning, match="freeze=backbone without weights"):
        run.fit(task, datamodule=data)
    assert run.global_step == 1
    changed = [name for name, x in network.state_dict().items() if not torch.equal(x, before[name])]
    assert changed
    assert not any(name.startswith("backbone.") for name in changed)


def test_freeze__gradients__reach_the_rest_alone() -> None:
    task = ClassificationTask(
        Classifier(MobileNetV1(0.25), 3), dict(enumerate(OLD)), freeze="backbone"
    )
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    task.train()(images).sum().backward()
    with_gradient = {name for name, x in task.network.named_parameters() if x.grad is not None}
    assert with_gradient == {"classifier.weight", "classifier.bias"}

"""``mobilevision import``, on made-up files and on the real public ones."""

import csv
import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_convert

from mobilevision.apps import Detector
from mobilevision.apps.importing import import_weights
from mobilevision.apps.main import main
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.backbone.weights.converters import SlimFile, slim_layers
from mobilevision.backbone.weights.hub import cached_path
from mobilevision.backbone.weights.loading import load_weights
from mobilevision.datasets.detection.coco import COCO_CATEGORIES
from mobilevision.datasets.detection.module import DetectionDataModule
from mobilevision.datasets.errors import DataError
from mobilevision.heads.classification import ClassificationTask
from mobilevision.heads.detection import DetectionTask
from mobilevision.heads.detection.boxes import SSDOutput

from ...heads.detection import tensorflow_graphs as graphs

Capture = pytest.CaptureFixture[str]
EXACT = {
    "AP": 0.1958, "AP50": 0.3466, "AP75": 0.2022, "APs": 0.0281, "APm": 0.1683, "APl": 0.4440,
    "AR1": 0.2020, "AR10": 0.3048, "AR100": 0.3198, "ARs": 0.0559, "ARm": 0.2906, "ARl": 0.6529,
}  # fmt: skip
QUANTIZED = {
    "AP": 0.1949, "AP50": 0.3497, "AP75": 0.1914, "APs": 0.0261, "APm": 0.1687, "APl": 0.4436,
    "AR1": 0.1977, "AR10": 0.3008, "AR100": 0.3166, "ARs": 0.0520, "ARm": 0.2820, "ARl": 0.6561,
}  # fmt: skip


def write_slim(path: Path, columns: int | None = 1001) -> Path:
    """A classifier of width 0.25 with TF-slim's names and made-up weights."""
    rng = np.random.default_rng(0)
    arrays = {}
    for scope, layer in slim_layers(MobileNetV1(width_mult=0.25)).items():
        out, per_group, height, width = layer.conv.weight.shape
        depthwise = layer.conv.groups > 1
        shape = (height, width, out, 1) if depthwise else (height, width, per_group, out)
        name = "depthwise_weights" if depthwise else "weights"
        arrays[f"{scope}/{name}"] = rng.normal(scale=0.2, size=shape).astype(np.float32)
        arrays[f"{scope}/bias"] = rng.normal(size=out).astype(np.float32)
    if columns is not None:
        logits = "MobilenetV1/Logits/Conv2d_1c_1x1"
        arrays[f"{logits}/weights"] = rng.normal(size=(1, 1, 256, columns)).astype(np.float32)
        arrays[f"{logits}/bias"] = rng.normal(size=columns).astype(np.float32)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def load_classifier(path: Path) -> ClassificationTask:
    return ClassificationTask.load_from_checkpoint(path, map_location="cpu", weights_only=True)


def test_import__classifier__knows_where_it_comes_from(tmp_path: Path, capsys: Capture) -> None:
    source, out = write_slim(tmp_path / "mobilenet_0.25_160.npz"), tmp_path / "x.ckpt"
    assert main(["import", str(source), "--out", str(out), "--license", "MIT"]) == 0
    card = capsys.readouterr().out
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for text in (digest, "MIT", "470,072", "160x160, (pixel - 128) / 128", "folded in"):
        assert text in card
    assert f"mobilevision cost --ckpt {out}" in card
    task = load_classifier(out)
    assert (len(task.categories), task.categories[0], task.categories[999]) == (
        (1000, "tench", "toilet tissue")
    )
    assert task.metadata["size_hw"] == [160, 160]
    provenance = task.metadata["provenance"]
    assert provenance["sha256"] == digest
    assert provenance["folded"] is True
    assert provenance["preprocess"] == {
        "size_hw": [160, 160], "pixel_mean": 128.0, "pixel_std": 128.0
    }  # fmt: skip


def test_import__checkpoint__is_weights_that_know_that_they_are_folded(tmp_path: Path) -> None:
    source = write_slim(tmp_path / "w_128.npz")
    import_weights(str(source), tmp_path / "x.ckpt")
    direct, through = MobileNetV1(width_mult=0.25), MobileNetV1(width_mult=0.25)
    assert load_weights(direct, source).folded
    assert load_weights(through, tmp_path / "x.ckpt").folded
    for name, value in direct.state_dict().items():
        assert torch.equal(value, through.state_dict()[name])
    assert MobileNetV1.from_pretrained(tmp_path / "x.ckpt").width_mult == 0.25


def test_import__labels__name_the_classes(tmp_path: Path) -> None:
    source = write_slim(tmp_path / "w_128.npz", columns=4)
    for text in ("background\ncat\ndog\nowl\n", "cat\ndog\nowl", "\ufeffcat\r\ndog\r\nowl\r\n"):
        (tmp_path / "labels.txt").write_text(text, encoding="utf-8", newline="")
        import_weights(str(source), tmp_path / "x.ckpt", labels=tmp_path / "labels.txt")
        assert load_classifier(tmp_path / "x.ckpt").categories == {0: "cat", 1: "dog", 2: "owl"}


def test_import__timm__logits_are_timms(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv1_100h").eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    imported = import_weights(str(tmp_path / "timm.pth"), tmp_path / "x.ckpt")
    assert imported.params == sum(parameter.numel() for parameter in theirs.parameters())
    assert imported.provenance["folded"] is False
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        ours = load_classifier(tmp_path / "x.ckpt").network.eval()(images)
        expected = theirs((images / 255 - 0.5) / 0.5)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_import__public_name__has_its_license(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILEVISION_CACHE", str(tmp_path))
    name = "mobilenet_v1_0.5_128_quant"
    with pytest.raises(WeightsError, match=f"mobilevision weights download {name}"):
        import_weights(name, tmp_path / "x.ckpt")
    cached_path(name).parent.mkdir(parents=True)
    # The format is told by content, so that a made-up .npz does for the .tflite here.
    write_slim(tmp_path / "w_128.npz").rename(cached_path(name))
    imported = import_weights(name, tmp_path / "x.ckpt", size_hw=(128, 96))
    assert imported.provenance["license"] == "Apache-2.0"
    assert imported.provenance["preprocess"]["size_hw"] == [128, 96]


@pytest.mark.parametrize(
    ("columns", "name", "words", "message"),
    [
        (1001, "w_128.npz", ["--sha256", "0" * 64], "its sha256 is"),
        (1001, "w.npz", [], "--size 224 224"),
        (4, "w_128.npz", [], "a classifier of 3 classes"),
        (None, "w_128.npz", [], "MobileNetV1.from_pretrained"),
        (4, "w_128.npz", ["--labels", "two.txt"], "has 2 lines"),
        (4, "w_128.npz", ["--labels", "empty.txt"], "is empty or a label map"),
        (4, "w_128.npz", ["--labels", "map.pbtxt"], "is empty or a label map"),
        (4, "w_128.npz", ["--size", "0", "128"], "both sides must be above 0"),
        (4, "w_128.npz", ["--labels", "absent.txt"], "not a readable text file"),
        (1001, "w_128.npz", ["--out", "x.pth"], "name it x.ckpt"),
    ],
)
def test_import__what_cannot_be__says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    columns: int | None,
    name: str,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("cat\ndog\n")
    Path("empty.txt").touch()
    Path("map.pbtxt").write_text("item {id: 1 name: 'cat'}\n" * 3)
    write_slim(tmp_path / name, columns)
    with pytest.raises(SystemExit) as caught:
        main(["import", name, "--out", "x.ckpt", *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.ckpt"))


# --- the real files


@pytest.fixture(scope="module")
def ssd(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public COCO detector, imported by the command."""
    out = tmp_path_factory.mktemp("imported") / "ssd.ckpt"
    assert main(["import", str(real_data / "weights/detect.tflite"), "--out", str(out)]) == 0
    return out


def measure(task: DetectionTask, real_data: Path, folder: Path) -> dict[str, float]:
    data = DetectionDataModule(real_data / "coco", size_hw=(300, 300), batch_size=16, num_workers=0)
    run = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False,
                  default_root_dir=folder, enable_model_summary=False)  # fmt: skip
    (found,) = run.validate(task, data, verbose=False)
    return {name: found[f"val/{name}"] for name in EXACT}


@pytest.mark.real_data
def test_import__real_detector__gives_the_recorded_coco_numbers(
    real_data: Path, ssd: Path, tmp_path: Path
) -> None:
    """Against an independent float32 implementation, with both kinds of anchors."""
    task = DetectionTask.load_from_checkpoint(ssd, map_location="cpu", weights_only=True)
    assert task.categories == COCO_CATEGORIES
    outputs: list[SSDOutput] = []
    with task.network.register_forward_hook(lambda *call: outputs.append(call[2])):
        assert measure(task, real_data, tmp_path) == pytest.approx(EXACT, abs=3e-3)
    rows = SlimFile(real_data / "weights/detect.tflite").anchors["anchors_quantised"]
    centers = torch.from_numpy(rows[:, [1, 0, 3, 2]].copy()) * 300
    boxes = box_convert(centers, "cxcywh", "xyxy")
    again = iter(outputs)  # the network says the same, only the boxes are others
    task.network.forward = lambda _: next(again)._replace(anchors=boxes)  # type: ignore[method-assign]
    assert measure(task, real_data, tmp_path) == pytest.approx(QUANTIZED, abs=3e-3)


@pytest.mark.real_data
def test_import__real_detector__serves_the_detector(real_data: Path, ssd: Path) -> None:
    detector = Detector.load(ssd, device="cpu")
    assert detector.size_hw == (300, 300)
    names = (real_data / "weights/labelmap.txt").read_text().splitlines()
    assert detector.categories == {i: name for i, name in enumerate(names) if i and name != "???"}


@pytest.mark.real_data
def test_import__labelmap__is_the_same_as_coco(real_data: Path, ssd: Path, tmp_path: Path) -> None:
    imported = import_weights(
        str(real_data / "weights/detect.tflite"),
        tmp_path / "x.ckpt",
        labels=real_data / "weights/labelmap.txt",
    )
    assert imported.categories == COCO_CATEGORIES
    one, other = (
        torch.load(path, weights_only=True)["state_dict"] for path in (ssd, tmp_path / "x.ckpt")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_import__frozen_graph__detects_what_the_graph_itself_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    made = graphs.fpn()
    Path("frozen_inference_graph.pb").write_bytes(made.graph.SerializeToString())
    Path("labels.txt").write_text("cat\ndog\nowl\n")
    options = ["--labels", "labels.txt", "--out", "x.ckpt", "--size", "256", "256"]
    assert main(["import", "frozen_inference_graph.pb", *options]) == 0
    assert "SSD with a feature pyramid of the TensorFlow Obj" in capsys.readouterr().out
    image = np.random.default_rng(0).integers(256, size=(256, 256, 3), dtype=np.uint8)
    found = Detector.load("x.ckpt", device="cpu")(image)
    scores = graphs.run(made.graph, torch.from_numpy(image)[None].float()).logits.sigmoid()
    best, label = scores[0, :, 1:].amax(dim=0).max(dim=0)
    assert found.scores[0] == pytest.approx(float(best), abs=1e-4)
    assert found.names[0] == ["cat", "dog", "owl"][label]


@pytest.mark.real_data
def test_import__detector_without_known_classes__asks_for_labels(
    real_data: Path, tmp_path: Path
) -> None:
    source = SimpleNamespace(columns=4, file=SimpleNamespace(path=Path("w.tflite")))
    from mobilevision.heads.detection.weights import _categories

    with pytest.raises(WeightsError, match="a detector of 3 classes"):
        _categories(source, None)  # type: ignore[arg-type]
    names = ["background", "cat", "???", "owl"]
    assert _categories(source, names) == {1: "cat", 3: "owl"}  # type: ignore[arg-type]
    (tmp_path / "labels.txt").write_text("cat\n")
    with pytest.raises(DataError, match="have 91 columns"):
        import_weights(
            str(real_data / "weights/detect.tflite"),
            tmp_path / "x.ckpt",
            labels=tmp_path / "labels.txt",
        )


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "size", "top1"),  # top-1 as measured independently on these images
    [
        ("mobilenet_v1_0.25_128", 128, 0.5250),
        ("mobilenet_v1_0.50_160", 160, 0.6775),
        ("mobilenet_v1_0.75_192", 192, 0.7525),
        ("mobilenet_v1_1.0_224", 224, 0.7900),
    ],
)
def test_import__real_classifier__has_its_published_accuracy(
    real_data: Path, tmp_path: Path, name: str, size: int, top1: float
) -> None:
    import_weights(str(real_data / "weights" / f"{name}.npz"), tmp_path / "x.ckpt")
    task = load_classifier(tmp_path / "x.ckpt").eval()
    assert task.metadata["size_hw"] == [size, size]
    folder = real_data / "imagenet_val"
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(rows), 50):
            batch = rows[start : start + 50]
            images = torch.stack([pixels(folder / row["file"], size) for row in batch])
            labels = torch.tensor([int(row["label"]) for row in batch])
            correct += int((task(images).argmax(dim=1) == labels).sum())
    assert abs(correct - top1 * len(rows)) <= 1


def pixels(path: Path, size: int) -> Tensor:
    image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)

"""The Python API: any image in, objects in its own pixels out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import DetectionResult, Detector
from mobilevision.apps.cli import lightning
from mobilevision.apps.inference.runtime import ModelMetadata
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.heads.detection import SSD, PostProcess

NETWORK = {
    "class_path": "mobilevision.heads.detection.SSD",
    "init_args": {
        "backbone": {
            "class_path": "mobilevision.backbone.MobileNetV1",
            "init_args": {"width_mult": 0.25},
        },
        "num_classes": 2,
    },
}


class WhiteFinder:
    """Finds what is white: a box around it; and around everything at a score of 0.1."""

    metadata = ModelMetadata("detection", (50, 100), {3: "white", 7: "all"}, {})

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        assert images.shape[1:] == (50, 100, 3)
        assert images.dtype == np.uint8
        self.batches.append(len(images))
        boxes = np.zeros((len(images), 3, 4), np.float32)
        labels = np.full((len(images), 3), -1)
        for row, image in enumerate(images):
            y, x = np.nonzero((image > 127).all(axis=2))
            if len(y):
                boxes[row, 0] = x.min(), y.min(), x.max() + 1, y.max() + 1
                boxes[row, 1] = 0, 0, 100, 50
                labels[row, :2] = 0, 1
        scores = np.tile(np.float32([0.9, 0.1, 0]), (len(images), 1))
        return {"boxes": boxes, "scores": scores, "labels": labels}


def image(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    return pixels


def test_call__mixed_sizes__boxes_in_pixels_of_each_image() -> None:
    boxes = {
        (500, 1000): (100, 200, 300, 400),
        (100, 50): (10, 20, 30, 60),
        (75, 90): (9, 30, 45, 60),
    }
    images = [image(*size, box) for size, box in boxes.items()]
    results = Detector(WhiteFinder())(images, batch_size=2)
    assert isinstance(results, list)
    for result, (size_hw, box) in zip(results, boxes.items(), strict=True):
        assert result.size_hw == size_hw
        assert (result.names, result.category_ids.tolist()) == (["white"], [3])
        np.testing.assert_allclose(result.boxes, [box], atol=max(size_hw) / 50)


def test_call__rotated_file__boxes_on_the_upright_image(tmp_path: Path) -> None:
    upright = image(200, 100, (20, 40, 60, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(np.rot90(upright)).save(path, exif=exif, quality=95)
    result = Detector(WhiteFinder())(path)
    assert isinstance(result, DetectionResult)
    assert result.size_hw == (200, 100)
    np.testing.assert_allclose(result.boxes, [[20, 40, 60, 120]], atol=4)


def test_call__single_and_list__result_and_list() -> None:
    detector = Detector(WhiteFinder())
    assert isinstance(detector(image(9, 9, (0, 0, 9, 9))), DetectionResult)
    one = detector([image(9, 9, (0, 0, 9, 9))])
    assert isinstance(one, list)
    assert len(one) == 1
    assert detector([]) == []
    assert detector(iter(())) == []


def test_call__nothing_found__an_empty_result() -> None:
    result = Detector(WhiteFinder())(np.zeros((8, 9, 3), np.uint8))
    assert isinstance(result, DetectionResult)
    assert len(result) == 0
    assert result.boxes.shape == (0, 4)
    assert (result.names, result.to_coco(1), result.counts) == ([], [], {})
    assert result.plot().size == (9, 8)
    assert "nothing" in repr(result)


def test_call__one_pixel_and_panorama__defined() -> None:
    wide = image(40, 10_000, (5_000, 0, 10_000, 40))
    results = Detector(WhiteFinder())([np.full((1, 1, 3), 255, np.uint8), wide])
    assert isinstance(results, list)
    np.testing.assert_allclose(results[0].boxes, [[0, 0, 1, 1]])
    np.testing.assert_allclose(results[1].boxes, [[5_000, 0, 10_000, 40]], atol=101)


def test_call__threshold__leaves_out_lower_scores() -> None:
    white = image(9, 9, (0, 0, 9, 9))
    detector = Detector(WhiteFinder())
    assert [len(detector(white, score_threshold=value)) for value in (0, 0.1, 0.11, 0.9, 1)] == [
        *(2, 2, 1, 1, 0)
    ]
    for threshold in (1.5, np.nan):
        with pytest.raises(DataError, match="from 0 to 1"):
            detector(white, score_threshold=threshold)
    with pytest.raises(DataError, match="batch_size=0"):
        detector(white, batch_size=0)


def test_call__stored_threshold__is_the_default() -> None:
    class Trained(WhiteFinder):
        metadata = replace(WhiteFinder.metadata, thresholds={"score": 0.05})

    white = image(9, 9, (0, 0, 9, 9))
    detector = Detector(Trained())
    assert (detector.score_threshold, len(detector(white))) == (0.05, 2)
    assert len(detector(white, score_threshold=0.5)) == 1
    assert Detector(WhiteFinder()).score_threshold == 0.5


def test_call__broken_file__raises_and_stream_goes_on(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.png", tmp_path / "broken.jpg"
    Image.fromarray(image(9, 9, (0, 0, 9, 9))).save(good)
    broken.write_bytes(b"no image")
    runtime = WhiteFinder()
    detector = Detector(runtime)
    with pytest.raises(DataError, match=r"broken\.jpg: not an image"):
        detector([good, broken, good])
    with pytest.raises(DataError, match=r"absent\.jpg: no such file"):
        detector("absent.jpg")
    from mobilevision.datasets.images import ImageFile

    files = map(ImageFile, [broken, broken, good, broken, good])
    runtime.batches.clear()
    kinds = [type(outcome).__name__ for outcome in detector.stream(files, batch_size=2)]
    assert kinds == ["DataError", "DataError", "DetectionResult", "DataError", "DetectionResult"]
    assert runtime.batches == [1, 1], "a batch without a good image does not reach the network"


def test_to_coco__rows_by_hand() -> None:
    result = Detector(WhiteFinder())(image(50, 100, (10, 5, 30, 45)), score_threshold=0)
    assert isinstance(result, DetectionResult)
    score = float(np.float32(0.9))
    assert result.to_coco(12)[0] == {
        "image_id": 12, "category_id": 3, "bbox": [10.0, 5.0, 20.0, 40.0], "score": score
    }  # fmt: skip
    assert result.counts == {"white": 1, "all": 1}


def test_to_supervision__same_objects() -> None:
    pytest.importorskip("supervision")
    result = Detector(WhiteFinder())(image(50, 100, (10, 5, 30, 45)), score_threshold=0)
    other = result.to_supervision()
    np.testing.assert_array_equal(other.xyxy, result.boxes)
    np.testing.assert_array_equal(other.confidence, result.scores)
    np.testing.assert_array_equal(other.class_id, [0, 1])
    assert list(other["class_name"]) == ["white", "all"]
    empty = Detector(WhiteFinder())(np.zeros((8, 9, 3), np.uint8)).to_supervision()
    assert len(empty) == 0


def test_to_supervision__package_absent__says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    result = Detector(WhiteFinder())(np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(DataError, match="pip install supervision"):
        result.to_supervision()


def test_plot__draws_on_the_original_image() -> None:
    white = image(200, 300, (50, 60, 150, 160))
    result = Detector(WhiteFinder())(white)
    drawn = np.asarray(result.plot())
    changed = (drawn != white).any(axis=2)
    assert drawn.shape == white.shape
    assert changed[100, 48:54].any()
    assert not changed[100, 80:120].any()
    assert not (np.asarray(result.plot(score_threshold=0.95)) != white).any()


def test_result__lengths_that_differ__refused() -> None:
    result = Detector(WhiteFinder())(np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="do not belong together"):
        DetectionResult(
            np.zeros((2, 4), np.float32), np.zeros(1), np.zeros(2, int), {}, (8, 9), result.image
        )


# --- the runtime of torch


def tiny_network() -> SSD:
    torch.manual_seed(0)
    process = PostProcess(score_threshold=0.001)
    return SSD(MobileNetV1(width_mult=0.25), num_classes=2, postprocess=process)


def test_from_network__agrees_with_the_network_and_leaves_it_alone() -> None:
    network = tiny_network().train()
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    detector = Detector.from_network(network, {1: "a", 5: "b"}, size_hw=(64, 64), device="cpu")
    result = detector(pixels, score_threshold=0)
    assert network.training
    network.eval()
    with torch.no_grad():
        output = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        expected = network.detect(output, (64, 64)).unbatch()[0]
    assert isinstance(result, DetectionResult)
    assert len(result) == len(expected.boxes) > 0
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-5)
    assert np.isin(result.category_ids, [1, 5]).all()
    with pytest.raises(DataError, match=r"device warp:9.*auto or cpu"):
        Detector.from_network(network, {1: "a", 5: "b"}, device="warp:9")


def checkpoint(path: Path, **changes) -> Path:
    content = {
        "state_dict": {
            f"network.{key}": value for key, value in tiny_network().state_dict().items()
        },
        "hyper_parameters": {
            "network": NETWORK,
            "categories": {1: "a", 5: "b"},
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        },
        "pytorch-lightning_version": "2.6.0",
        "mobilevision": {"format": 1, "size_hw": [64, 96]},
    }
    torch.save({key: value for key, value in (content | changes).items() if value}, path)
    return path


def test_load__checkpoint__size_and_categories_from_it(tmp_path: Path) -> None:
    detector = Detector.load(checkpoint(tmp_path / "a.ckpt"), device="cpu")
    assert detector.size_hw == (64, 96)
    assert detector.categories == {1: "a", 5: "b"}
    other = Detector.load(tmp_path / "a.ckpt", size_hw=(32, 32))
    assert other.size_hw == (32, 32)
    expected = tiny_network().state_dict()["predictors.0.boxes.weight"]
    loaded = detector.runtime.network.state_dict()["network.predictors.0.boxes.weight"]  # type: ignore[attr-defined]
    torch.testing.assert_close(loaded, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyper_parameters": {"categories": {1: "a"}}}, r"use from_network\(\)"),
        ({"hyper_parameters": None}, r"use from_network\(\)"),
        ({"mobilevision": None}, r"the size.*--size 300 300"),
        ({"state_dict": None}, "no checkpoint of a detector"),
        ({"state_dict": {"network.x": torch.zeros(1)}}, "can be rebuilt"),
    ],
)
def test_load__unfit_checkpoint__says_what_to_do(
    tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Detector.load(checkpoint(tmp_path / "a.ckpt", **changes))


def test_load__no_checkpoint__says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no such model.*Public names are ssd_mobilenet_v1_0.75_coco_quant"
    ):
        Detector.load(tmp_path / "absent.ckpt")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"from \.ckpt.* files, not '\.txt'"):
        Detector.load(tmp_path / "a.txt")
    (tmp_path / "a.ckpt").write_text("x")
    with pytest.raises(DataError, match="not a checkpoint that can be read safely"):
        Detector.load(tmp_path / "a.ckpt")
    with pytest.raises(DataError, match="at least 1"):
        Detector.load(checkpoint(tmp_path / "b.ckpt"), size_hw=(0, 3))


def test_load__checkpoint_of_lightning_fit__works(recipe: Path, scenes: Path) -> None:
    lightning(["fit", "-c", str(recipe), "--trainer.max_epochs=1", "--trainer.limit_val_batches=0",
               "--trainer.limit_train_batches=1"])  # fmt: skip
    (path,) = recipe.parent.glob("runs/version_0/checkpoints/last.ckpt")
    detector = Detector.load(path, device="cpu")
    assert detector.size_hw == (64, 64)
    results = detector(sorted((scenes / "val2017").glob("*.jpg")) or
                       sorted(scenes.rglob("*.jpg"))[:3], score_threshold=0)  # fmt: skip
    assert isinstance(results, list)
    assert results
    assert all(result.size_hw == (96, 96) for result in results)

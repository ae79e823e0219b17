"""The public COCO detector exported: the same boxes and the same measures on real images."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from mobilevision.apps import DetectionResult, Detector
from mobilevision.apps.export.exporting import Exported, export_checkpoint
from mobilevision.apps.importing import import_weights
from mobilevision.apps.inference.runtime import Runtime, open_runtime
from mobilevision.datasets.images import ImageFile
from mobilevision.heads.detection.coco_metrics import evaluate_boxes

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.real_data
Results = list[dict]


@pytest.fixture(scope="module")
def checkpoint(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("coco") / "ssd.ckpt"
    import_weights(str(real_data / "weights/detect.tflite"), out, license="Apache-2.0")
    return out


@pytest.fixture(scope="module")
def written(checkpoint: Path) -> Exported:
    return export_checkpoint(checkpoint, checkpoint.with_suffix(".onnx"), "onnx")


@pytest.fixture(scope="module")
def random_images(real_data: Path) -> list[Path]:
    return sorted((real_data / "coco/val2017").glob("*.jpg"))


def test_export__real_detector__says_what_it_is(written: Exported) -> None:
    assert written.differences is not None
    assert written.differences["scores"] < 1e-4
    assert written.differences["boxes"] < 0.05
    assert written.differences["labels"] == 0
    metadata = open_runtime(written.path).metadata
    assert (metadata.size_hw, metadata.license, len(metadata.categories)) == (
        (300, 300),
        "Apache-2.0",
        80,
    )
    assert len(metadata.provenance["weights"]["sha256"]) == 64


def test_detector__real_images__same_boxes(
    written: Exported, checkpoint: Path, random_images: list[Path]
) -> None:
    chosen = random_images[:8]
    ours = Detector.load(written.path, "cpu")(chosen, 0.05, batch_size=3)
    theirs = Detector.load(checkpoint, "cpu")(chosen, 0.05)
    assert isinstance(ours, list)
    assert isinstance(theirs, list)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.names == other.names
        np.testing.assert_allclose(mine.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(mine.boxes, other.boxes, atol=0.05)
    assert sum(len(other) for other in theirs) > 20


def test_runtime__images_of_any_size__same_objects(
    written: Exported, checkpoint: Path, random_images: list[Path]
) -> None:
    run, detector = open_runtime(written.path, "cpu"), Detector.load(checkpoint, "cpu")
    seen = 0
    for path in random_images[:4]:
        found = run(ImageFile(path).read()[None])
        expected = detector(path, 0.3)
        assert isinstance(expected, DetectionResult)
        kept = found["scores"][0] >= 0.3
        assert abs(int(kept.sum()) - len(expected)) <= 1, "a score may lie at the threshold"
        # Pixels that are rounded differently may let another of two equal boxes win.
        overlap = box_iou(torch.from_numpy(expected.boxes), torch.from_numpy(found["boxes"][0]))
        for row, (score, label) in enumerate(zip(expected.scores, expected.labels, strict=True)):
            same = np.where(found["labels"][0] == label, overlap[row].numpy(), 0.0)
            assert same.max() > 0.8
            np.testing.assert_allclose(found["scores"][0, same.argmax()], score, atol=0.02)
        seen += len(expected)
    assert seen > 4


@pytest.mark.slow
def test_measures__coco_numbers_of_the_checkpoint(
    written: Exported, checkpoint: Path, random_images: list[Path], real_data: Path
) -> None:
    annotations = real_data / "coco/annotations/instances_val2017.json"
    truth = json.loads(annotations.read_text())
    run = open_runtime(written.path, "cpu")

    def measure(results: Results) -> dict[str, float]:
        return dict(evaluate_boxes(truth, results, "val2017").numbers)

    expected = measure(detected(Detector.load(checkpoint, "cpu"), random_images))
    assert expected["AP"] > 0.19
    exported = measure(detected(Detector.load(written.path, "cpu"), random_images))
    resized_inside = measure(said(run, random_images))
    for name, value in expected.items():
        assert exported[name] == pytest.approx(value, abs=1e-3), name
        assert resized_inside[name] == pytest.approx(value, abs=2e-3), name


def detected(detector: Detector, random_images: list[Path]) -> Results:
    return _rows(random_images, lambda path: detector(path, 0.0).to_coco(int(path.stem)))  # type: ignore[union-attr]


def said(run: Runtime, random_images: list[Path]) -> Results:
    """What the file itself says of whole images, without ``Detector``."""
    ids = list(run.metadata.categories)

    def rows(path: Path) -> Results:
        found = run(ImageFile(path).read()[None])
        boxes = found["boxes"][0].astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        return [
            {"image_id": int(path.stem), "category_id": ids[label], "bbox": box.tolist(),
             "score": float(score)}
            for box, score, label in zip(boxes, found["scores"][0], found["labels"][0], strict=True)
            if label >= 0
        ]  # fmt: skip

    return _rows(random_images, rows)


def _rows(random_images: Iterable[Path], of_image: Callable[[Path], Results]) -> Results:
    return [row for path in random_images for row in of_image(path)]

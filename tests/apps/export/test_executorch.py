"""ExecuTorch files: the answers of eager torch, in batches of the size that was asked for."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from mobilevision.apps import Detector
from mobilevision.apps.benchmark.backends import alone, runnable_formats, sides_of
from mobilevision.apps.export import formats
from mobilevision.apps.export.export_module import Deployable, DeployedNetwork
from mobilevision.apps.export.exported_program import written_metadata
from mobilevision.apps.export.exporting import (
    Exported,
    export_checkpoint,
    format_exported,
    largest_differences,
    made_up_image,
)
from mobilevision.apps.export.formats import ExportOptions, open_format
from mobilevision.apps.inference.runtime import open_runtime
from mobilevision.datasets.errors import DataError

pytest.importorskip("executorch", reason="needs mobilevision[executorch]")

from executorch.extension.pybindings import portable_lib

from mobilevision.apps.export.executorch import ExecutorchFormat

KINDS = (
    "ssd", "faster_rcnn", "face_detection", "classification", "face_attributes", "face_embedding",
    "geolocation",
)  # fmt: skip
BATCHES = {"classification": 2, "faster_rcnn": 2}
"""Images of each call, where that is not one."""

Programs = Callable[[str], Exported]
Deployables = Callable[[str], Deployable]


@pytest.fixture(scope="module")
def program(small: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Kind of network -> the ExecuTorch file of its checkpoint, and what was said of it."""
    folder = tmp_path_factory.mktemp("executorch")
    done: dict[str, Exported] = {}

    def export(kind: str) -> Exported:
        if kind not in done:
            options = ExportOptions(BATCHES.get(kind))
            out = folder / f"{kind}.pte"
            done[kind] = export_checkpoint(small(kind), out, "executorch", options=options)
        return done[kind]

    return export


def random_images(count: int, size_hw: tuple[int, int]) -> np.ndarray:
    return np.stack([np.roll(made_up_image(size_hw), 7 * i, axis=1) for i in range(count)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_file__same_answers_for_any_number_of_images(
    kind: str, program: Programs, deployable: Deployables
) -> None:
    written, eager = program(kind), deployable(kind)
    run = open_runtime(written.path, "cpu", threads=1)
    assert (
        run.metadata == written_metadata(eager, ExportOptions(any_image=False)) == written.metadata
    )
    for count in (1, 3):
        images = random_images(count, eager.metadata.size_hw)
        with torch.no_grad():
            answers = eager.module(torch.from_numpy(images))
        expected = {
            name: x.numpy() for name, x in zip(eager.metadata.outputs, answers, strict=True)
        }
        for name, difference in largest_differences(expected, run(images)).items():
            most = {"boxes": 2e-2, "landmarks": 2e-2, "labels": 0}.get(name, 1e-4)
            assert difference <= most, name
        assert all(np.ptp(x) > 0 for name, x in expected.items() if name != "labels")
    assert max(written.differences.values()) < 2e-2  # type: ignore[union-attr]


@pytest.mark.slow
def test_file__what_is_printed__names_size_and_number(program: Programs) -> None:
    told = format_exported(program("classification"))
    assert "the central 0.875 of each image" in told
    assert "resized to 64x80 px before" in told
    assert "batch 2" in told


@pytest.mark.slow
def test_file__executorch_alone__runs_the_network_in_xnnpack_and_reads_facts(
    program: Programs,
) -> None:
    path = program("ssd").path
    loaded = portable_lib._load_program(str(path))
    (said,) = loaded.load_method("mobilevision.categories")([])
    assert json.loads(said) == {"3": "cat", "7": "owl"}
    boxes, scores, labels = loaded.load_method("forward")(
        [torch.zeros(1, 64, 80, 3, dtype=torch.uint8)]
    )
    assert boxes.shape == (1, *scores.shape[1:], 4)
    assert labels.dtype == torch.int64
    assert b"XnnpackBackend" in path.read_bytes()


@pytest.mark.slow
def test_sides_of__file__gets_images_of_its_size(program: Programs, tmp_path: Path) -> None:
    (side,) = sides_of(program("classification").path, "all", tmp_path).sides
    assert (side.engine, side.whole_hw) == ("executorch", (64, 80))


@pytest.mark.slow
def test_detector__file__finds_what_the_checkpoint_finds(
    program: Programs, small: Callable[[str], Path]
) -> None:
    image = made_up_image((90, 120))
    found = Detector.load(program("ssd").path, "cpu")(image, 0.0)
    expected = Detector.load(small("ssd"), "cpu")(image, 0.0)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-2)


@pytest.mark.slow
def test_open_runtime__unfit_file_image_or_device__says_what_to_do(
    program: Programs, tmp_path: Path
) -> None:
    path = program("classification").path
    run = open_runtime(path)
    with pytest.raises(DataError, match=r"classification\.pte: takes images of 64x80x3, not 80x"):
        run(np.zeros((1, 80, 64, 3), np.uint8))
    with pytest.raises(DataError, match=r"device cuda: .*Choose auto or cpu"):
        open_runtime(path, "cuda")
    whole = path.read_bytes()
    cut = tmp_path / "cut.pte"
    cut.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=rf"cut\.pte: has {len(whole) - 100} of .*end is missing"):
        open_runtime(cut)
    damaged = tmp_path / "damaged.pte"
    damaged.write_bytes(whole[:40] + bytes(400) + whole[440:])
    with pytest.raises(DataError, match=r"damaged\.pte: ExecuTorch cannot open it"):
        open_runtime(damaged)
    foreign = tmp_path / "foreign.pte"
    foreign.write_bytes(whole.replace(b"mobilevision.", b"anothertool__"))
    with pytest.raises(DataError, match=r"foreign\.pte: has no metadata"):
        open_runtime(foreign)


@pytest.mark.parametrize("content", [b"", b"no program", bytes(range(256))])
def test_open_runtime__no_program__says_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.pte").write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.pte: is no program of ExecuTorch"):
        open_runtime(tmp_path / "broken.pte")


@pytest.mark.slow
def test_format__network_alone__answers_as_torch(deployable: Deployables, tmp_path: Path) -> None:
    bare = alone(deployable("ssd"))
    ExecutorchFormat().write(bare, tmp_path / "network.pte", ExportOptions(any_image=False))
    images = random_images(1, bare.metadata.size_hw)
    with torch.no_grad():
        expected = bare.module(torch.from_numpy(images))
    found = open_runtime(tmp_path / "network.pte")(images)
    compared = 0
    for output, there in zip(expected, found.values(), strict=True):
        if len(output) == len(images):  # anchors are part of the answer, too
            np.testing.assert_allclose(there, output.numpy(), atol=1e-4)
            compared += 1
    assert compared == 2


def test_format__operation_without_a_kernel__refused(
    deployable: Deployables, tmp_path: Path
) -> None:
    class Foreign(nn.Module):
        def forward(self, pixels: Tensor, _: tuple[int, int]) -> tuple[Tensor]:
            boxes = pixels.float().mean(dim=(1, 2)).view(-1, 4)
            return (nms(boxes, boxes[:, 0], 0.5),)

    height_width = (8, 8)
    foreign = replace(deployable("ssd"), module=DeployedNetwork(Foreign(), height_width))
    foreign = replace(foreign, metadata=replace(foreign.metadata, size_hw=height_width))
    with pytest.raises(DataError, match=r"foreign\.pte: .*torchvision\.nms.*Choose onnx"):
        ExecutorchFormat().write(foreign, tmp_path / "foreign.pte", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_open_format__executorch_absent__names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "executorch" in runnable_formats()

    def absent(*_: object) -> None:
        raise ImportError("no executorch", name="executorch")

    monkeypatch.setattr(formats, "import_module", absent)
    with pytest.raises(DataError, match=r"executorch: pip install 'mobilevision\[executorch\]'"):
        open_format("executorch")
    assert runnable_formats() == []

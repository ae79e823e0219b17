"""What is compared with what, and what every side says: tiny networks, in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from mobilevision.apps.benchmark import backends, loader, measuring, peers
from mobilevision.apps.benchmark.backends import (
    Made,
    Side,
    _add_with_precisions,
    alone,
    check_engine,
    others,
    sides_of,
    tensors_in,
)
from mobilevision.apps.benchmark.loader import FLOPS, Opening, open_side
from mobilevision.apps.benchmark.measuring import LATENCY, NETWORK, Settings, Start, figures_of
from mobilevision.apps.benchmark.peers import Peer, limit_candidates, make_peer, one_of
from mobilevision.apps.benchmark.processes import Rounds
from mobilevision.apps.benchmark.report import benchmark, read_image
from mobilevision.apps.export.export_module import open_deployable
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.heads.checkpoint import Plan, write_checkpoint
from mobilevision.heads.faces import FacesNetwork, FacesTask

IMAGE = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)


class HereWorker:
    """A process that is none: everything takes as long as ``SECONDS`` says."""

    SECONDS: ClassVar[dict[tuple[str, str], float]] = {}

    def __init__(self, opening: Opening, image: Path, threads: int, folder: Path) -> None:  # noqa: ARG002
        self.opening = opening
        self.image = np.load(image)

    def __enter__(self) -> "HereWorker":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_until_ready(self) -> float:
        if self.opening.opener != "gemm":
            open_side(self.opening, torch.get_num_threads())(self.image[None])
        return 0.5

    def run(self, batch: int) -> None:
        if batch > 4:
            raise DataError("too many")

    def time(self, batch: int, calls: int) -> float:  # noqa: ARG002
        opener = self.opening.opener
        name = self.opening.source if opener == "gemm" else opener
        return self.SECONDS[name, self.opening.part] * batch

    def peak_memory(self) -> int:
        return 123_000_000


@pytest.fixture
def face(tmp_path: Path, write_face_checkpoint: Callable[..., Path]) -> Path:
    return write_face_checkpoint(tmp_path / "face.ckpt")


class TinyFace(nn.Module):
    """Stands for facenet-pytorch's network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).mean((2, 3))


def test_benchmark__checkpoint_against_a_peer__figures_by_hand(
    tmp_path: Path, face: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str) -> Peer:  # noqa: ARG001
        return Peer("Tiny", TinyFace(), (16, 16), lambda pixels: pixels / 255)

    monkeypatch.setitem(peers._MAKERS, "facenet", make)
    monkeypatch.setattr(measuring, "Worker", HereWorker)
    monkeypatch.setattr(loader, "installed", lambda: ["torch", "onnxruntime"])
    seconds = {"torch": 0.03, "onnxruntime": 0.01, "checkpoint": 0.004, "peer": 0.012}
    parts = {(name, "whole"): value for name, value in seconds.items()}
    parts |= {("checkpoint", "network"): 0.002, ("peer", "network"): 0.008}
    monkeypatch.setattr(HereWorker, "SECONDS", parts)
    settings = Settings(threads=1, rounds=3, batch=4, starts=1)
    text = benchmark(face, ["facenet"], "eager", IMAGE, 10, settings, tmp_path / "out")
    assert "face.ckpt, eager" in text
    assert "3.00x" in text
    content = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    ours, theirs = content["sides"]
    assert content["ceiling_flops"] == pytest.approx(FLOPS / 0.01)
    products = content["ceiling_products_flops"]
    assert list(products) == ["onnxruntime", "torch"]
    assert products == pytest.approx({"onnxruntime": FLOPS / 0.01, "torch": FLOPS / 0.03})
    assert ours["times_faster_than"] == {"Tiny, eager": pytest.approx(3)}
    assert ours["pictures_per_s"] == pytest.approx(250)
    assert ours["peak_bytes"] == 123_000_000
    assert theirs["mult_adds"] == 14 * 14 * 4 * 27
    share = 2 * 14 * 14 * 4 * 27 / 0.008 / (FLOPS / 0.01)
    assert theirs["share_of_ceiling"] == pytest.approx(share)
    assert content["protocol"]["dropped"] == 0
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_sides_of__checkpoint_in_every_engine__same_embeddings(tmp_path: Path, face: Path) -> None:
    pytest.importorskip("onnxscript")
    made = sides_of(face, "onnx", tmp_path)
    (side,) = made.sides
    # Of the network's size: a resize of uint8 and one of floats differ by up to a level.
    face_image = np.ascontiguousarray(IMAGE[None, :32, :32])
    eager, found = (
        open_side(opening, 1)(face_image)
        for opening in (Opening("checkpoint", str(face)), side.whole)
    )
    assert isinstance(eager, torch.Tensor)
    own = nn.functional.normalize(eager, dim=1).numpy()
    np.testing.assert_allclose(found["embeddings"], own, atol=1e-4)  # type: ignore[index]
    assert side.network is not None
    alone: Any = open_side(side.network, 1)(np.zeros((1, 32, 32, 3), np.uint8))
    assert [value.shape for value in alone.values()] == [(1, 24)]
    assert side.network_hw == (32, 32)


def test_sides_of__faces_in_one_pass__network_alone_says_all(tmp_path: Path) -> None:
    plan = Plan(
        FacesNetwork,
        {
            "backbone": Plan(MobileNetV1, {"width_mult": 0.25}),
            "num_classes": 3,
            "dimension": 8,
            "landmarks": True,
        },
    )
    path, names = tmp_path / "faces.ckpt", {0: "a", 1: "b", 2: "c"}
    write_checkpoint(path, FacesTask, plan, plan.build(), names, (40, 32), {})
    (side,) = sides_of(path, "eager", tmp_path).sides
    assert (side.network_hw, side.network) == ((40, 32), side.whole._replace(part="network"))
    assert side.mult_adds
    for opening, image in ((side.whole, IMAGE), (side.network, IMAGE[:, :32])):
        said = open_side(opening, 1)(image[None])
        assert [value.shape for value in tensors_in(said)] == [(1, 8), (1, 3), (1, 5, 2)]
    assert list(alone(open_deployable(path)).metadata.outputs) == [
        "output_0",
        "output_1",
        "output_2",
    ]


def test_sides_of__what_cannot_be__says_what_to_do(tmp_path: Path, face: Path) -> None:
    with pytest.raises(DataError, match=r"no such model"):
        sides_of(tmp_path / "absent.ckpt", "all", tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"read from \.ckpt, "):
        sides_of(tmp_path / "a.txt", "all", tmp_path)
    with pytest.raises(DataError, match=r"--engine warp: there are all, eager, onnx"):
        check_engine("warp")
    with pytest.raises(DataError, match=r"torchvision:NAME, timm:NAME or facenet"):
        others(["ssdlite320"], tmp_path, 10, IMAGE)
    (side,) = others([str(face)], tmp_path, 10, IMAGE)
    assert side.title == "face.ckpt, eager"


def test_sides_of__format_that_fails__left_out_and_told(
    tmp_path: Path, face: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DataError("not here")

    monkeypatch.setattr(backends, "export_checkpoint", refuse)
    monkeypatch.setattr(backends, "runnable_formats", lambda: ["onnx"])
    made = sides_of(face, "all", tmp_path)
    assert [side.engine for side in made.sides] == ["eager"]
    assert made.skipped == {"face.ckpt, onnx": "not here"}
    with pytest.raises(DataError, match="not here"):
        sides_of(face, "onnx", tmp_path)


def test_add_with_precisions__runtime_that_has_one__another_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    def open_runtime(path: str, device: str, threads: int) -> Callable[[Any], Any]:  # noqa: ARG001
        asked.append((path, device))
        if "poor" in path:
            raise DataError("does not calculate in bf16")
        return len

    monkeypatch.setattr(loader, "open_runtime", open_runtime)
    made = Made([], {})
    for name in ("a.xml", "poor.xml", "a.onnx"):
        part = Opening("file", f"net_{name}") if name == "a.xml" else None
        _add_with_precisions(made, Side(name, "x", Opening("file", name), part))
    assert [side.title for side in made.sides] == [
        "a.xml, x",
        "a.xml, x bf16",
        "poor.xml, x",
        "a.onnx, x",
    ]
    assert made.sides[1].whole == Opening("file", "a.xml#bf16")
    assert made.sides[1].network == Opening("file", "net_a.xml#bf16")
    assert [side.precision for side in made.sides[:2]] == ["float32", "bf16"]
    assert made.skipped == {"poor.xml, x bf16": "does not calculate in bf16"}
    assert asked == [("a.xml", "cpu:bf16"), ("poor.xml", "cpu:bf16")]
    open_side(Opening("file", "a.xml"), 1)
    assert asked[-1] == ("a.xml", "cpu")


@pytest.mark.parametrize(("precision", "share"), [("float32", 0.5), ("bf16", None)])
def test_figures_of__share_of_the_ceiling__only_in_its_own_precision(
    precision: str, share: float | None
) -> None:
    side = Side("a", "x", Opening("file", "a"), mult_adds=100, precision=precision)
    seconds = {(0, LATENCY): [3.0, 3.0], (0, NETWORK): [2.0, 2.0]}
    rounds = Rounds(seconds, [[1.0], [1.0]], [0, 1])
    found = figures_of(0, [side], Start(1.0, 1), rounds, 200.0, 4, [0])
    assert (found.network_s, found.share) == (2.0, share)


@pytest.mark.parametrize("runtime", loader.installed())
def test_gemm__every_runtime_here__the_product_of_numpy(runtime: str) -> None:
    matrices = np.random.default_rng(0).standard_normal((2, loader.SIDE, loader.SIDE), np.float32)
    product = loader.open_gemm(runtime, 1).whole(IMAGE[None])
    np.testing.assert_allclose(np.asarray(product), matrices[0] @ matrices[1], atol=1e-3)


def test_gemm_installed__packages_that_are_missing__left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "find_spec", lambda name: None if name == "onnx" else name)
    assert loader.installed() == ["torch", "openvino"]


def test_one_of__beginning_that_is_the_only_one__completed() -> None:
    names = ["ssd300", "ssdlite320_large", "resnet18", "resnet18d"]
    assert one_of("ssdlite", names, "p") == "ssdlite320_large"
    assert one_of("resnet18", names, "p") == "resnet18"
    with pytest.raises(DataError, match="'ssd' is the beginning of ssd300, ssdlite320_large"):
        one_of("ssd", names, "p")
    for name in ("", "vgg"):
        with pytest.raises(DataError, match="is no model of it"):
            one_of(name, names, "p")


def test_make_peer__torchvision__classifier_with_its_own_size_and_range() -> None:
    peer = make_peer("torchvision:squeezenet1_1")
    assert peer.size_hw == (224, 224)
    assert not peer.network.training
    grey = peer.ready(np.full((2, 10, 12, 3), 255, np.uint8))
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert grey.shape == (2, 3, 224, 224)
    np.testing.assert_allclose(grey[1, :, 5, 5].numpy(), expected, rtol=1e-5)


class Suppressing(nn.Module):
    """A detector of scores 0.9, 0.5, 0.4 and 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.score_thresh, self.nms_thresh, self.detections_per_img = 0.01, 0.55, 300

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        scores = torch.tensor([0.1, 0.9, 0.4, 0.5])
        return [{"scores": scores[scores > self.score_thresh]} for _ in images]


def test_limit_candidates__scores_by_hand__threshold_between_them() -> None:
    network = Suppressing()
    peer = Peer("hand", network, None, lambda pixels: list(pixels / 255))
    assert limit_candidates(peer, 2, IMAGE) == pytest.approx(0.45)
    assert (network.score_thresh, network.nms_thresh) == (pytest.approx(0.45), 0.55)
    assert network.detections_per_img == 300
    assert limit_candidates(peer, 9, IMAGE) == 0


def test_tensors_in__nested__in_order() -> None:
    one, two, three = (torch.tensor(value) for value in (1, 2, 3))
    nested = {"a": (one, [two, None]), "b": ((), three, 4)}
    assert [int(tensor) for tensor in tensors_in(nested)] == [1, 2, 3]


def test_settings_and_image__below_one__refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--rounds 0"):
        Settings(threads=1, rounds=0)
    with pytest.raises(DataError, match="--picture-size 0 5"):
        read_image(None, (0, 5))
    assert read_image(None, (6, 8)).shape == (6, 8, 3)
    with pytest.raises(DataError, match=r"absent\.jpg"):
        read_image(tmp_path / "absent.jpg", (6, 8))

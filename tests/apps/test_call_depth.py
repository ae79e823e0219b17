"""How far a prediction is from its caller: files entered and calls within calls."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps import Detector
from mobilevision.apps.main import main
from mobilevision.backbone.mobilenet import MobileNetV1
from mobilevision.heads.checkpoint import Plan, write_checkpoint
from mobilevision.heads.detection import DetectionTask
from mobilevision.heads.detection.ssd import SSD

NOT_CALLS = {"<module>", "<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>"}
FOLDERS = ("apps", "backbone", "datasets", "heads")


class Calls:
    """The project's files that are entered, and the longest chain of its functions."""

    def __init__(self, repository: Path) -> None:
        self.roots = tuple(f"{repository / folder}/" for folder in FOLDERS)
        self.files: set[str] = set()
        self.deepest: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and self.counts(frame.f_code):
            self.files.add(frame.f_code.co_filename)
            chain = []
            caller: FrameType | None = frame
            while caller is not None:
                if self.counts(caller.f_code):
                    chain.append(caller.f_code.co_qualname)
                caller = caller.f_back
            self.deepest = max(self.deepest, chain[::-1], key=len)

    def counts(self, code: CodeType) -> bool:
        return code.co_filename.startswith(self.roots) and code.co_name not in NOT_CALLS


@contextmanager
def followed(repository: Path) -> Iterator[Calls]:
    calls = Calls(repository)
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def test_detector__one_image__eight_calls_deep(repository: Path) -> None:
    network = SSD(MobileNetV1(width_mult=0.25), num_classes=2)
    detector = Detector.from_network(network, {1: "a", 2: "b"}, device="cpu")
    image = np.zeros((40, 60, 3), np.uint8)
    detector(image)  # makes the anchors
    with followed(repository) as calls:
        detector(image)
    assert calls.deepest[0] == "Detector.__call__"
    assert len(calls.deepest) <= 8, calls.deepest


def test_command_detect__one_image__twenty_files(repository: Path, tmp_path: Path) -> None:
    network = SSD(MobileNetV1(width_mult=0.25), num_classes=2)
    plan = Plan(SSD, {"backbone": Plan(MobileNetV1, {"width_mult": 0.25}), "num_classes": 2})
    checkpoint = tmp_path / "ssd.ckpt"
    write_checkpoint(checkpoint, DetectionTask, plan, network, {1: "a", 2: "b"}, (300, 300), {})
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg")
    line = ["detect", str(tmp_path / "a.jpg"), "--model", str(checkpoint)]
    main([*line, "--out", str(tmp_path / "first")])  # imports
    with followed(repository) as calls:
        assert main([*line, "--out", str(tmp_path / "second")]) == 0
    assert len(calls.files) <= 20, " ".join(sorted(calls.files))


def test_load__onnx__three_calls_to_the_runtime(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    seen: list[list[str]] = []

    def session(*_: Any, **__: Any) -> Any:
        caller, chain = sys._getframe(), []
        while caller is not None:
            if calls.counts(caller.f_code):
                chain.append(caller.f_code.co_qualname)
            caller = caller.f_back  # type: ignore[assignment]
        seen.append(chain[::-1])
        raise RuntimeError("seen")

    calls = Calls(repository)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    (tmp_path / "a.onnx").write_bytes(b"-")
    with pytest.raises(Exception, match="seen"):
        Detector.load(tmp_path / "a.onnx")
    (chain,) = seen
    assert chain[0] == "Predictor.load"
    assert len(chain) <= 3, chain

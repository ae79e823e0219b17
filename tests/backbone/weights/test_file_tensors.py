from pathlib import Path

import numpy as np
import pytest
import torch

from mobilevision.backbone.errors import WeightsError
from mobilevision.backbone.weights.formats import FileTensors, file_format, size_in_name


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenet_v1_0.25_128.npz", 128),
        ("mobilenet_v1_1.0_224_quant.tflite", 224),
        ("mobilenet_7_5_192_tf_no_top.h5", 192),
        ("ssd_mobilenet_v1_0.75_coco_300.npz", 300),
    ],
)
def test_size_in_name__published_names__is_their_size(name: str, size: int) -> None:
    assert size_in_name(Path(name)) == (size, size)


@pytest.mark.parametrize("name", ["detect.tflite", "mobilenet_v1_0.75.npz", "model_7.npz"])
def test_size_in_name__nothing_said__is_none(name: str) -> None:
    assert size_in_name(Path(name)) is None


def test_file_format__goes_by_content_and_not_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    torch.save({"x": torch.zeros(1)}, tmp_path / "b.npz")
    torch.save({"x": torch.zeros(1)}, tmp_path / "c.npz", _use_new_zipfile_serialization=False)
    (tmp_path / "d.npz").write_bytes(bytes(4) + b"TFL3")
    found = [file_format(path) for path in sorted(tmp_path.iterdir())]
    assert found == ["npz", "torch", "torch", "tflite"]


def test_take__twice__is_missing() -> None:
    tensors = FileTensors(Path("f"), {"a": torch.zeros(2, dtype=torch.float16)})
    assert tensors.take("a", (2,)).dtype == torch.float32
    with pytest.raises(WeightsError, match="f: a is missing"):
        tensors.take("a", (2,))
    tensors.require_all_used()


def test_require_all_used__many_left__names_the_first() -> None:
    tensors = FileTensors(Path("f"), {f"t{n}": torch.zeros(1) for n in range(7)})
    with pytest.raises(
        WeightsError, match=r"7 tensors have no place .*: t0, t1, t2, t3, t4, \.\.\."
    ):
        tensors.require_all_used()

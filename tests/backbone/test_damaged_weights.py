"""Damaged and hostile weight files end in a WeightsError, and take no memory before it."""

import io
import resource
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.weights.converters import slim_layers
from mobilevision.backbone.weights.formats import (
    LARGEST_NETWORK_BYTES,
    FileTensors,
    load_torch_file,
    require_plausible_size,
)
from mobilevision.backbone.weights.loading import (
    WeightsError,
    load_pretrained,
    load_weights,
)

WIDTH = 1 / 32
TENSOR_BYTES = 2 * LARGEST_NETWORK_BYTES


@pytest.fixture
def small_memory() -> Iterator[None]:
    """At most what the process has now and half of what the hostile files ask for."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + TENSOR_BYTES // 2
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def slim_arrays(net: MobileNetV1) -> dict[str, np.ndarray]:
    arrays = {}
    for scope, layer in slim_layers(net).items():
        out, per_group, height, width = layer.conv.weight.shape
        depthwise = layer.conv.groups > 1
        shape = (height, width, out, 1) if depthwise else (height, width, per_group, out)
        name = "depthwise_weights" if depthwise else "weights"
        arrays[f"{scope}/{name}"] = np.zeros(shape, np.float32)
        arrays[f"{scope}/bias"] = np.zeros(out, np.float32)
    return arrays


def write_npz(path: Path) -> None:
    np.savez(path, **slim_arrays(MobileNetV1(width_mult=WIDTH)))  # type: ignore[arg-type]


def write_compressed_npz(path: Path) -> None:
    np.savez_compressed(path, **slim_arrays(MobileNetV1(width_mult=WIDTH)))  # type: ignore[arg-type]


def own_state() -> dict[str, torch.Tensor]:
    state = MobileNetV1(width_mult=WIDTH).state_dict()
    return {f"network.backbone.{name}": value for name, value in state.items()}


def write_checkpoint(path: Path) -> None:
    torch.save({"state_dict": own_state(), "hyper_parameters": {"network": None}}, path)


def write_legacy_checkpoint(path: Path) -> None:
    torch.save({"state_dict": own_state()}, path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path) -> None:
    pytest.importorskip("safetensors.torch").save_file(own_state(), path)


def write_hdf5(path: Path) -> None:
    with pytest.importorskip("h5py").File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"conv1/kernel:0"]
        group.create_dataset("conv1/kernel:0", data=np.zeros((3, 3, 3, 8), np.float32))


WRITERS = {
    "w.npz": write_npz,
    "compressed.npz": write_compressed_npz,
    "own.ckpt": write_checkpoint,
    "legacy.pth": write_legacy_checkpoint,
    "w.safetensors": write_safetensors,
    "w.h5": write_hdf5,
}


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut, or with a few bytes changed; mostly near the ends, where the tables are."""
    data = bytearray(content)
    if rng.random() < 0.2:
        return bytes(data[: rng.integers(len(data))])
    for _ in range(rng.integers(1, 6)):
        near = int(rng.integers(min(4096, len(data))))
        place = (near, -1 - near, int(rng.integers(len(data))))[rng.integers(3)]
        data[place] = rng.integers(256)
    return bytes(data)


@pytest.mark.parametrize("name", WRITERS)
def test_load_weights__damaged_files__raise_nothing_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(80):
        path.write_bytes(mutated(content, rng))
        for use in (partial(load_weights, MobileNetV1(width_mult=WIDTH)), load_pretrained):
            try:
                use(path)
            except WeightsError as error:
                messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)


def write_zeros(path: Path, entry: str, start: bytes = b"") -> None:
    """A zip archive of zeros."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(entry, "w", force_zip64=True) as file,
    ):
        file.write(start)
        for _ in range(TENSOR_BYTES // 2**20):
            file.write(bytes(2**20))


def npy_header(numbers: int) -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (numbers,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def write_npz_bomb(path: Path) -> None:
    write_zeros(path, "MobilenetV1/Conv2d_0/weights.npy", npy_header(TENSOR_BYTES // 4))


def write_npz_lie(path: Path) -> None:
    """A header that promises more than its entry holds."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy_header(2**45))


def write_checkpoint_bomb(path: Path) -> None:
    write_zeros(path, "a/data.pkl")


def write_hdf5_bomb(path: Path) -> None:
    with pytest.importorskip("h5py").File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"kernel"]
        group.create_dataset("kernel", (TENSOR_BYTES // 4,), np.float32)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_npz_bomb, "far more than any MobileNet"),
        (write_npz_lie, "not a readable .npz file"),
        (write_checkpoint_bomb, "far more than any MobileNet"),
        (write_hdf5_bomb, "far more than any MobileNet"),
    ],
)
def test_load_weights__a_small_file_of_huge_tensors__is_refused_unread(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "bomb"
    write(path)
    assert path.stat().st_size < 4e6
    with pytest.raises(WeightsError, match=message):
        load_weights(MobileNetV1(width_mult=WIDTH), path)


@pytest.mark.usefixtures("small_memory")
def test_load_torch_file__a_bomb__is_refused_unread(tmp_path: Path) -> None:
    write_checkpoint_bomb(tmp_path / "bomb.ckpt")
    with pytest.raises(WeightsError, match="far more than any MobileNet"):
        load_torch_file(tmp_path / "bomb.ckpt")


@pytest.mark.usefixtures("small_memory")
def test_take__of_a_view_that_repeats_one_number__compares_the_shape_first() -> None:
    huge = torch.zeros(1, dtype=torch.float16).expand(TENSOR_BYTES // 4)
    with pytest.raises(WeightsError, match="the network wants"):
        FileTensors(Path("f"), {"a": huge}).take("a", (2,))


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()],
)
def test_take__of_what_is_no_plain_array__says_so(tensor: torch.Tensor) -> None:
    with pytest.raises(WeightsError, match="f: a is no plain array"):
        FileTensors(Path("f"), {"a": tensor}).take("a", (2,))


def test_require_plausible_size__a_large_file__may_declare_its_own_size_and_no_more() -> None:
    stored = 10 * LARGEST_NETWORK_BYTES
    require_plausible_size("f", stored, stored)
    with pytest.raises(WeightsError, match="far more than any MobileNet"):
        require_plausible_size("f", stored + 1, stored)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {1: torch.zeros(1)}},
        {"state_dict": {"a.stem.conv.weight": 3}},
        {"state_dict": own_state(), "hyper_parameters": [1]},
        {"state_dict": own_state(), "mobilevision": "x"},
        {3: torch.zeros(1)},
        [1],
    ],
)
def test_load_weights__checkpoints_of_an_odd_form(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(WeightsError, match=r"odd\.ckpt"):
        load_weights(MobileNetV1(width_mult=WIDTH), tmp_path / "odd.ckpt")


@pytest.mark.parametrize("width", ["1", None, float("nan"), 1e6, 10**400])
def test_load_pretrained__width_that_is_none__is_named(tmp_path: Path, width: object) -> None:
    network = {
        "class_path": "mobilevision.backbone.MobileNetV1",
        "init_args": {"width_mult": width},
    }
    path = tmp_path / "own.ckpt"
    torch.save({"state_dict": own_state(), "hyper_parameters": {"network": network}}, path)
    with pytest.raises(WeightsError, match=r"own\.ckpt: width_mult="):
        load_pretrained(path)

"""Core ML files: what they say, and what their operations come to, calculated here in torch.

Core ML runs on Apple's machines alone. What is checked here is the written file, read again by
coremltools and evaluated by ``run_file``, which follows the documentation of each operation.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mobilevision.apps.export.coreml import INPUT, CoreMlFormat, quiet_coremltools
from mobilevision.apps.export.export_module import Deployable
from mobilevision.apps.export.exporting import largest_differences, made_up_image
from mobilevision.apps.export.formats import ExportOptions
from mobilevision.apps.inference.runtime import ModelMetadata
from mobilevision.apps.main import main
from mobilevision.datasets.errors import DataError

KINDS = [
    "ssd",
    pytest.param("faster_rcnn", marks=pytest.mark.slow),
    "face_detection",
    "classification",
    "face_attributes",
    "face_embedding",
    "geolocation",
]
TOLERANCES = {"boxes": 0.5, "landmarks": 0.5, "labels": 0, "logits": 3e-2}
"""Largest difference to eager torch, for layers in float16; boxes and landmarks are in pixels."""
TOLERANCE = 1e-2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:coremltools.*")
INT32 = 131104  # FeatureTypes.proto: 0x20000 and the number of bits
FLOAT32 = 65568
RGB = 20


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coreml")


@pytest.fixture
def written(folder: Path, deployable: Callable[[str], Deployable]) -> Callable[[str], Path]:
    """Kind of network -> the Core ML file of its checkpoint."""
    pytest.importorskip("coremltools", reason="coremltools is not installed")

    def write(kind: str) -> Path:
        path = folder / f"{kind}.mlpackage"
        if not path.exists():
            CoreMlFormat().write(deployable(kind), path, ExportOptions())
        return path

    return write


def load_function(path: Path) -> Any:
    """The operations of a file, as coremltools reads them."""
    with quiet_coremltools() as coremltools:
        from coremltools.converters.mil.frontend.milproto.load import load

        spec = coremltools.utils.load_spec(str(path))
        weights = path / "Data" / "com.apple.CoreML" / "weights"
        return load(spec, spec.specificationVersion, str(weights)).functions["main"]


def operations_of(function: Any) -> list[Any]:
    return [each for each in function.operations if each.op_type != "const"]


def run_file(function: Any, image: Tensor) -> dict[str, np.ndarray]:
    """Answers of a file for an image (1, 3, H, W) from 0 to 255."""
    values = {INPUT: image}

    def value_of(name: str, given: Any) -> Any:
        if isinstance(given, list | tuple):
            return [value_of(name, each) for each in given]
        if given.name in values:
            return values[given.name]
        return torch.as_tensor(given.val) if name in TENSORS else plain(given.val)

    for each in operations_of(function):
        arguments = {name: value_of(name, given) for name, given in each.inputs.items()}
        if each.op_type in ELEMENTWISE:
            operands = (arguments[name] for name in ("x", "y") if name in arguments)
            found = ELEMENTWISE[each.op_type](*operands)
        else:
            found = OTHERS[each.op_type](**arguments)
        found = found if isinstance(found, list | tuple) else (found,)
        for said, value in zip(each.outputs, found, strict=True):
            assert value.shape == said.shape, each.name
            values[said.name] = value
    return {output.name: values[output.name].numpy() for output in function.outputs}


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


TENSORS = {"x", "y", "weight", "bias", "indices", "data", "updates", "cond", "a", "b", "values"}
TYPES = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}


def convolve(x, weight, strides, pad_type, pad, dilations, groups, bias=None):
    if pad_type == "custom":
        top, bottom, left, right = pad
        x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, strides, 0, dilations, groups)


def gather(x, indices, axis, **_):
    found = x.index_select(axis, indices.flatten().long())
    return found.view(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def pad_sides(x, pad, mode, constant_val):
    pairs = [pad[i : i + 2] for i in range(0, len(pad), 2)]
    return F.pad(x, [side for pair in reversed(pairs) for side in pair], mode, constant_val)


def resample(x, coordinates, sampling_mode, padding_mode, align_corners, **others):
    assert others["coordinates_mode"] == "normalized_minus_one_to_one"
    found = F.grid_sample(x.float(), coordinates, sampling_mode, padding_mode, align_corners)
    return found.to(x.dtype)


def slice_by_index(x, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None):
    none = [False] * x.ndim
    begin_mask, end_mask, squeeze_mask = begin_mask or none, end_mask or none, squeeze_mask or none
    places = tuple(
        begin[axis]
        if squeeze_mask[axis]
        else slice(
            None if begin_mask[axis] else begin[axis],
            None if end_mask[axis] else end[axis],
            stride[axis] if stride else None,
        )
        for axis in range(x.ndim)
    )
    return x[places]


def topk(x, k, axis, ascending, sort, **_):
    values, places = x.topk(k, dim=axis, largest=not ascending, sorted=sort)
    return values, places.int()


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "exp": torch.exp,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "logical_and": torch.logical_and,
    "logical_not": torch.logical_not,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mul": torch.mul,
    "pow": torch.pow,
    "real_div": torch.div,
    "sigmoid": torch.sigmoid,
    "sub": torch.sub,
}
"""Core ML's operations of x, or of x and y."""
OTHERS: dict[str, Callable[..., Any]] = {
    "avg_pool": lambda x, kernel_sizes, strides, **_: F.avg_pool2d(x, kernel_sizes, strides),
    "cast": lambda x, dtype: x.to(TYPES[dtype]),
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "concat": lambda values, axis, **_: torch.cat(values, axis),
    "conv": convolve,
    "expand_dims": lambda x, axes: x.unsqueeze(*axes),
    "gather": gather,
    "gather_along_axis": lambda x, indices, axis, **_: x.gather(axis, indices.long()),
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, negative_slope=alpha),
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "log": lambda x, epsilon: (x + epsilon).log(),
    "matmul": lambda x, y, transpose_x, transpose_y: (
        (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)
    ),
    "pad": pad_sides,
    "reduce_max": lambda x, axes, keep_dims: x.amax(axes, keep_dims),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(axes, keep_dims),
    "reduce_sum": lambda x, axes, keep_dims: x.sum(axes, keep_dims),
    "resample": resample,
    "relu": lambda x: x.relu(),
    "reshape": lambda x, shape: x.reshape(shape),
    "scatter_along_axis": lambda data, indices, updates, axis, mode, **_: {
        "add": data.scatter_add(axis, indices.long(), updates),
        "update": data.scatter(axis, indices.long(), updates),
    }[mode],
    "select": lambda a, b, cond: torch.where(cond, a, b),
    "slice_by_index": slice_by_index,
    "softmax": lambda x, axis: x.softmax(axis),
    "split": lambda x, split_sizes, axis: x.split(split_sizes, axis),
    "tile": lambda x, reps: x.tile(reps),
    "topk": topk,
    "transpose": lambda x, perm: x.permute(perm),
    "upsample_nearest_neighbor": lambda x, scale_factor_height, scale_factor_width: F.interpolate(
        x, scale_factor=(scale_factor_height, scale_factor_width)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_file__evaluated__answers_of_torch(
    kind: str, written: Callable[[str], Path], deployable: Callable[[str], Deployable]
) -> None:
    eager = deployable(kind)
    image = made_up_image(eager.metadata.size_hw)
    images = torch.from_numpy(image)[None]
    with torch.no_grad():
        answers = eager.module(images)
        found = run_file(load_function(written(kind)), images.permute(0, 3, 1, 2).float())
    expected = {name: x.numpy() for name, x in zip(eager.metadata.outputs, answers, strict=True)}
    assert list(found) == list(expected)
    if "boxes" in expected:
        # Scores of networks that were not trained lie so close that float16 changes their ranks.
        apart = np.abs(expected["boxes"][0, :, None] - found["boxes"][0]).max(axis=-1)
        apart += 1e6 * (expected["labels"][0, :, None] != found["labels"][0])
        there = apart.min(axis=1) < TOLERANCES["boxes"]
        assert there.mean() > 0.8, "NMS keeps others where scores change their ranks"
        found = {name: rows[:, apart.argmin(axis=1)[there]] for name, rows in found.items()}
        expected = {name: rows[:, there] for name, rows in expected.items()}
    for name, difference in largest_differences(expected, found).items():
        assert difference <= TOLERANCES.get(name, TOLERANCE), name
    assert all(np.ptp(x) > 0 for name, x in expected.items() if name != "labels")


@pytest.mark.parametrize("kind", KINDS)
def test_file__says_what_it_is(
    kind: str, written: Callable[[str], Path], deployable: Callable[[str], Deployable]
) -> None:
    metadata = deployable(kind).metadata
    with quiet_coremltools() as coremltools:
        said = coremltools.utils.load_spec(str(written(kind))).description
    (image,) = said.input
    height, width = metadata.size_hw
    assert image.name == INPUT
    assert (image.type.imageType.height, image.type.imageType.width) == (height, width)
    assert image.type.imageType.colorSpace == RGB
    assert [output.name for output in said.output] == list(metadata.outputs)
    for output in said.output:
        array = output.type.multiArrayType
        assert array.dataType == (INT32 if output.name == "labels" else FLOAT32)
        assert array.shape[0] == 1
    read = ModelMetadata.from_strings(said.metadata.userDefined, kind)
    assert f"an RGB image of {height}x{width} px" in read.preparation
    assert (read.job, read.categories, read.details) == (
        metadata.job,
        metadata.categories,
        metadata.details,
    )
    assert read.provenance == metadata.provenance
    assert said.metadata.license == read.license == metadata.license


def channels(weight: Any) -> list[int]:
    return sorted(weight.shape[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_file__layers_in_float16__what_follows_in_float32(
    kind: str, written: Callable[[str], Path], deployable: Callable[[str], Deployable]
) -> None:
    operations = operations_of(load_function(written(kind)))
    assert not {"batch_norm", "instance_norm", "dropout"} & {each.op_type for each in operations}
    weights = [
        each.inputs["weight" if "weight" in each.inputs else "y"].val
        for each in operations
        if each.op_type in {"conv", "linear"}
        or (each.op_type == "matmul" and each.inputs["y"].val is not None)
    ]
    layers = [x for x in deployable(kind).module.modules() if isinstance(x, nn.Conv2d | nn.Linear)]
    # Channels alone: taps that would only see padding are left out of the smallest maps' kernels.
    assert sorted(map(channels, weights)) == sorted(channels(x.weight) for x in layers)
    assert {x.dtype for x in weights} == {np.dtype(np.float16)}
    last = [each for each in operations if each.op_type in {"exp", "softmax", "sigmoid", "topk"}]
    assert all(each.inputs["x"].dtype.__type_info__().name == "fp32" for each in last)


def test_export__command__replaces_the_folder_and_is_quiet(
    small: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed")
    out = tmp_path / "small.mlpackage"
    out.mkdir()
    (out / "old").touch()
    checkpoint = str(small("classification"))
    assert main(["export", "--ckpt", checkpoint, "--format", "coreml", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert sorted(path.name for path in out.iterdir()) == ["Data", "Manifest.json"]
    assert list(tmp_path.iterdir()) == [out]
    assert "the central 0.875 of each image" in printed.out
    assert "one of them as an RGB image of 64x80 px" in printed.out
    assert "not run" in printed.out
    assert printed.err == ""


def test_write__operator_without_counterpart__named(
    deployable: Callable[[str], Deployable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed")
    monkeypatch.setattr("mobilevision.apps.export.coreml.coreml_operators", dict)
    with pytest.raises(DataError, match=r"cannot convert this network: Unsupported fx node \w+"):
        CoreMlFormat().write(deployable("ssd"), tmp_path / "a.mlpackage", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_write__several_images__refused(
    deployable: Callable[[str], Deployable], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="one image a call"):
        CoreMlFormat().write(deployable("ssd"), tmp_path / "a.mlpackage", ExportOptions(batch=2))


def test_write__not_installed__names_the_extra(
    deployable: Callable[[str], Deployable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(DataError, match=r"pip install 'mobilevision\[coreml\]'"):
        CoreMlFormat().write(deployable("ssd"), tmp_path / "a.mlpackage", ExportOptions())
    assert list(tmp_path.iterdir()) == []

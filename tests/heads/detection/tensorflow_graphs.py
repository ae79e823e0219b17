"""The graphs of TensorFlow's detectors, small and with random weights, and a reader that runs them.

Operators, names and padding are those of the Object Detection API's ssd_mobilenet_v1, ..._ppn and
..._fpn in the form of a frozen graph. ``run`` executes the nodes one by one in TensorFlow's own
layout, NHWC, and knows nothing of networks. On these very graphs it agreed with TensorFlow 2.21 on
all boxes and logits within 3e-5.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from tensorboard.compat.proto.graph_pb2 import GraphDef  # type: ignore[attr-defined]
from tensorboard.compat.proto.node_def_pb2 import NodeDef  # type: ignore[attr-defined]
from torch import Tensor

from ...backbone.weights.tensorflow_files import add_constant

BACKBONE = "FeatureExtractor/MobilenetV1"
SHARED = "WeightSharedConvolutionalBoxPredictor"
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5
BLOCKS += [(1024, 2), (1024, 1)]
INPUT, BOXES, LOGITS = "image_tensor", "concat", "concat_1"


class Map(NamedTuple):
    """A node that gives a map, and the channels of that."""

    node: str
    channels: int


class Detector:
    """A graph in the making. ``variables`` are what a checkpoint of it would hold."""

    def __init__(self, width: float, columns: int, quantized: bool = False) -> None:
        self.graph, self.width, self.columns = GraphDef(), width, columns
        self.quantized = quantized
        self.variables: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(0)
        self.op("Placeholder", INPUT)
        for name, number in (("scale", 2 / 255), ("one", 1.0)):
            add_constant(self.graph, name, np.array(number, np.float32))
        self.op("Mul", "Preprocessor/mul", "scale", INPUT)
        self.image = Map(self.op("Sub", "Preprocessor/sub", "Preprocessor/mul", "one"), 3)

    def op(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        node = self.graph.node.add(name=name, op=kind, input=inputs)
        for key, value in attributes.items():
            if isinstance(value, str):
                node.attr[key].s = value.encode()
            elif isinstance(value, float):
                node.attr[key].f = value
            else:
                node.attr[key].list.i.extend(value)
        node.attr["dtype" if kind == "Placeholder" else "T"].type = 1  # TensorFlow insists
        return name

    def variable(self, name: str, *shape: int) -> str:
        """A variable as freezing leaves it: a constant that is read; made once."""
        if name not in self.variables:
            if name.endswith("weights"):
                scale = math.sqrt(2 / (shape[0] * shape[1] * (shape[2] if shape[3] > 1 else 1)))
                values = self.rng.normal(scale=scale, size=shape)
            elif name.endswith(("gamma", "moving_variance")):
                values = self.rng.uniform(0.5, 1.5, shape)
            else:
                values = self.rng.normal(scale=0.3, size=shape)
            self.variables[name] = values.astype(np.float32)
            add_constant(self.graph, name, self.variables[name])
            self.op("Identity", f"{name}/read", name)
            if self.quantized and name.endswith("weights"):
                for part, limit in (("min", -2.0), ("max", 2.0)):
                    limits = f"{name}_quant/{part}"
                    self.variables[limits] = np.array(limit, np.float32)
                    add_constant(self.graph, limits, self.variables[limits])
        return f"{name}/read"

    def conv(
        self, x: Map, scope: str, channels: int, size: int, stride: int = 1, *,
        norm: str | None = "BatchNorm", thin: bool = False, node: str = "",
    ) -> Map:  # fmt: skip
        """A convolution, then batch normalization and ReLU6, or a bias alone."""
        node = node or scope
        inner = 1 if thin else channels
        kernel = self.variable(
            f"{scope}/{'depthwise_' * thin}weights", size, size, x.channels, inner
        )
        kind = "DepthwiseConv2dNative" if thin else "Conv2D"
        y = self.op(
            kind, f"{node}/{kind}", x.node, kernel, strides=[1, stride, stride, 1], padding="SAME"
        )
        if norm is None:
            bias = self.variable(f"{scope}/biases", channels)
            return Map(self.op("BiasAdd", f"{node}/BiasAdd", y, bias), channels)
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        own = [self.variable(f"{scope}/{norm}/{part}", channels) for part in parts]
        y = self.op("FusedBatchNorm", f"{node}/{norm}/FusedBatchNorm", y, *own, epsilon=0.001)
        self.graph.node[-1].attr["is_training"].b = False
        return Map(self.op("Relu6", f"{node}/Relu6", y), channels)

    def backbone(self) -> dict[int, Map]:
        """The maps after each block; like the API's own, blocks 12 and 13 also where unused."""
        x = self.conv(self.image, f"{BACKBONE}/Conv2d_0", self.depth(32, 8), 3, 2)
        maps = {}
        for number, (channels, stride) in enumerate(BLOCKS, start=1):
            scope = f"{BACKBONE}/Conv2d_{number}"
            x = self.conv(x, f"{scope}_depthwise", x.channels, 3, stride, thin=True)
            maps[number] = x = self.conv(x, f"{scope}_pointwise", self.depth(channels, 8), 1)
        return maps

    def depth(self, channels: int, least: int = 16) -> int:
        return max(int(channels * self.width), least)

    def finish(self, pairs: Iterable[tuple[Map, Map]]) -> "Detector":
        """Join boxes and logits of all maps, a row for each anchor."""
        boxes, logits = zip(*pairs, strict=True)
        add_constant(self.graph, "axis", np.array(1, np.int32))
        for name, maps, width in ((BOXES, boxes, 4), (LOGITS, logits, self.columns)):
            add_constant(self.graph, f"{name}/shape", np.array([1, -1, width], np.int32))
            rows = []
            for number, map_ in enumerate(maps):
                rows.append(self.op("Reshape", f"{name}/rows_{number}", map_.node, f"{name}/shape"))
            self.op("ConcatV2", name, *rows, "axis")
            self.graph.node[-1].attr["N"].i = len(rows)
        return self


def ssd(width: float = 0.25, columns: int = 4, quantized: bool = False) -> Detector:
    """ssd_mobilenet_v1: two maps of the backbone, four more, a predictor for each."""
    made = Detector(width, columns, quantized)
    ends = made.backbone()
    maps, last = [ends[11], ends[13]], f"{BACKBONE}/Conv2d_13_pointwise"
    for number, base in enumerate((512, 256, 256, 128), start=2):
        half, whole = made.depth(base // 2), made.depth(base)
        x = made.conv(maps[-1], f"{last}_1_Conv2d_{number}_1x1_{half}", half, 1)
        maps.append(made.conv(x, f"{last}_2_Conv2d_{number}_3x3_s2_{whole}", whole, 3, 2))
    return made.finish(
        tuple(
            made.conv(x, f"BoxPredictor_{number}/{name}", (6 if number else 3) * rows, 1, norm=None)
            for name, rows in (("BoxEncodingPredictor", 4), ("ClassPredictor", columns))
        )
        for number, x in enumerate(maps)
    )


def shared(
    made: Detector, maps: Sequence[Map], towers: Sequence[str], depth: int, size: int
) -> Detector:
    """One predictor for all maps, but with batch normalization of each."""
    pairs = []
    for index, features in enumerate(maps):
        node = SHARED + (f"_{index}" if index else "")
        ends = []
        for tower in towers:
            x = features
            for number in range(depth):
                scope = f"{tower}/conv2d_{number}"
                x = made.conv(
                    x, f"{SHARED}/{scope}", x.channels, size,
                    norm=f"BatchNorm/feature_{index}", node=f"{node}/{scope}",
                )  # fmt: skip
            ends.append(x)
        pairs.append(
            tuple(
                made.conv(x, f"{SHARED}/{name}", 6 * rows, size, norm=None, node=f"{node}/{name}")
                for x, name, rows in (
                    (ends[0], "BoxPredictor", 4), (ends[-1], "ClassPredictor", made.columns)
                )
            )
        )  # fmt: skip
    return made.finish(pairs)


def ppn(width: float = 0.25, columns: int = 4) -> Detector:
    """ssd_mobilenet_v1_ppn: block 11, pooled five times, one tower of one 1x1 convolution."""
    made = Detector(width, columns)
    maps = [made.backbone()[11]]
    for number in range(5):
        name = f"{BACKBONE}/MaxPool2d_{number}_2x2/MaxPool"
        two = [1, 2, 2, 1]
        node = made.op("MaxPool", name, maps[-1].node, ksize=two, strides=two, padding="SAME")
        maps.append(Map(node, maps[-1].channels))
    return shared(made, maps, ["PredictionTower"], 1, 1)


def fpn(width: float = 0.25, columns: int = 4, side: int = 256) -> Detector:
    """ssd_mobilenet_v1_fpn: P3 to P7, two towers of four 3x3 convolutions."""
    made, scope = Detector(width, columns), f"{BACKBONE}/fpn"
    ends, depth = made.backbone(), made.depth(256)
    top = made.conv(ends[13], f"{scope}/projection_3", depth, 1, norm=None)
    maps = [top]
    for number, block, stride in ((2, 11, 16), (1, 5, 8)):
        lateral = made.conv(ends[block], f"{scope}/projection_{number}", depth, 1, norm=None)
        size, name = f"{scope}/top_down/size_{number}", f"{scope}/top_down/{{}}_{number}"
        add_constant(made.graph, size, np.array([side // stride] * 2, np.int32))
        raised = made.op("ResizeNearestNeighbor", name.format("raised"), top.node, size)
        top = Map(made.op("Add", name.format("add"), raised, lateral.node), depth)
        maps.insert(0, made.conv(top, f"{scope}/smoothing_{number}", depth, 3))
    for number in (14, 15):
        maps.append(made.conv(maps[-1], f"{scope}/bottom_up_Conv2d_{number}", depth, 3, 2))
    return shared(made, maps, ["BoxPredictionTower", "ClassPredictionTower"], 4, 3)


class Result(NamedTuple):
    """What ``run`` found."""

    boxes: Tensor
    """(1, A, 4)."""
    logits: Tensor
    """(1, A, columns)."""
    mult_adds: int
    """Of the convolutions."""


@torch.inference_mode()
def run(graph: GraphDef, images: Tensor) -> Result:
    """Execute a graph node by node on float images (1, H, W, 3); on "meta" it only counts."""
    values: dict[str, Tensor] = {INPUT: images}
    mult_adds = 0
    for node in graph.node:
        if node.op == "Placeholder":
            continue
        inputs = [values[name] for name in node.input]
        values[node.name] = execute(node, inputs, images.device)
        if node.op in ("Conv2D", "DepthwiseConv2dNative"):
            height, width, per_group, _ = inputs[1].shape
            inner = per_group if node.op == "Conv2D" else 1
            mult_adds += values[node.name].numel() * height * width * inner
    return Result(values[BOXES], values[LOGITS], mult_adds)


def execute(node: NodeDef, inputs: Sequence[Tensor], device: torch.device) -> Tensor:
    """Give the output of one node, whose maps are (B, H, W, C)."""
    if node.op == "Const":
        tensor = node.attr["value"].tensor
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        dtype = {1: np.float32, 3: np.int32}[tensor.dtype]
        array = np.frombuffer(tensor.tensor_content, dtype).reshape(shape).copy()
        return torch.from_numpy(array).to(device if tensor.dtype == 1 else "cpu")
    if node.op == "FusedBatchNorm":
        x, gamma, beta, mean, variance = inputs
        return (x - mean) / torch.sqrt(variance + node.attr["epsilon"].f) * gamma + beta
    if node.op in ("Conv2D", "DepthwiseConv2dNative", "MaxPool"):
        return windows(node, *inputs)
    return PLAIN[node.op](*inputs)


def raised(x: Tensor, size_hw: Tensor) -> Tensor:
    """Repeat the nearest row and column."""
    for axis, size in enumerate(size_hw.tolist(), start=1):
        x = x.index_select(axis, torch.arange(size, device=x.device) * x.shape[axis] // size)
    return x


PLAIN: dict[str, Callable[..., Tensor]] = {
    "Identity": lambda x: x,
    "Mul": torch.mul,
    "Sub": torch.sub,
    "Add": torch.add,
    "BiasAdd": torch.add,
    "Relu6": lambda x: x.clamp(0, 6),
    "Reshape": lambda x, shape: x.reshape(shape.tolist()),
    "ConcatV2": lambda *values: torch.cat(values[:-1], dim=int(values[-1])),
    "ResizeNearestNeighbor": raised,
}
"""What takes its inputs and nothing else."""


def windows(node: NodeDef, x: Tensor, kernel: Tensor | None = None) -> Tensor:
    """Slide a kernel or a maximum over maps, with TensorFlow's SAME padding."""
    stride = node.attr["strides"].list.i[1]
    size = node.attr["ksize"].list.i[1] if kernel is None else kernel.shape[0]
    sides: list[int] = []
    for length in (x.shape[2], x.shape[1]):
        total = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
        sides += [total // 2, total - total // 2]
    x = F.pad(x.permute(0, 3, 1, 2), sides, value=-math.inf if kernel is None else 0.0)
    if kernel is None:
        y = F.max_pool2d(x, size, stride)
    elif node.op == "Conv2D":
        y = F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride)
    else:
        y = F.conv2d(x, kernel.permute(2, 3, 0, 1), stride=stride, groups=x.shape[1])
    return y.permute(0, 2, 3, 1)

"""Public SSD weights of the TensorFlow Object Detection API, loaded strictly by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from ...backbone.layers import ConvNormAct
from ...backbone.mobilenet import MobileNetV1
from ...backbone.weights.converters import (
    SLIM_FORMATS,
    SlimFile,
    load_slim,
    load_slim_layer,
    take_kernel,
    take_tensorflow_norm,
)
from ...backbone.weights.formats import file_format
from ...backbone.weights.hub import resolve_weights
from ...backbone.weights.loading import WeightsError
from ...datasets.detection.coco import COCO_CATEGORIES
from ...datasets.errors import DataError
from ..checkpoint import Plan
from .boxes import DefaultBoxes, MultiscaleAnchors, PostProcess
from .fpn import FeaturePyramid, PoolingPyramid
from .ssd import SSD, ExtraMap, MapPredictor, SharedLayer, SharedPredictors

EXTRAS_SCOPE = "FeatureExtractor/MobilenetV1/Conv2d_13_pointwise"
FPN_SCOPE = "FeatureExtractor/MobilenetV1/fpn"
SHARED_SCOPE = "WeightSharedConvolutionalBoxPredictor"
# The file's box offsets are (y, x, height, width), those of this package (x, y, width, height).
BOX_ORDER = (1, 0, 3, 2)
COCO_IDS = 90  # its columns are COCO category ids: 0 is background, ten of the 90 are unused
RATIOS = [1.0, 2.0, 0.5, 3.0, 0.3333]  # its rounding of 1/3
_EXACT, _QUANTIZED = 1e-4, 4e-3  # tolerances of the anchors: rounding
_UNUSED = "???"


class PublicDetector(NamedTuple):
    """A published detector as a network of this package; the result of ``read_detector``."""

    plan: Plan
    """Class and arguments of the network, plain data."""
    network: SSD
    """With the file's weights, in evaluation mode."""
    categories: dict[int, str]
    """Category id -> name; the position is the class index."""
    size_hw: tuple[int, int]
    """Height and width of the images in pixels."""
    metadata: dict[str, Any]
    """Properties of the conversion, plain data: ``kind``, ``imported``, ``folded``, ``notes``."""


def is_detector(path: Path) -> bool:
    """Return whether this file is a detector that ``read_detector`` reads, and no classifier.

    Raises:
        WeightsError: No such file, a damaged one, or one of an unknown kind.
    """
    return file_format(path) in SLIM_FORMATS and SlimFile(path).is_detector


def read_detector(
    path: Path, size_hw: tuple[int, int] | None = None, names: Sequence[str] | None = None
) -> PublicDetector:
    """Read the detector of a published weight file, of any of the formats.

    Args:
        path: The file.
        size_hw: Input size in pixels; None takes that of the file.
        names: Names of its classes, the first for background or without it, ``???`` where a column
            is unused; None takes those of COCO.

    Raises:
        WeightsError: No such file, a damaged one, or its content does not fit.
        DataError: The names are not as many as the file's classes.
    """
    source = open_detector(path)
    categories = _categories(source, names)
    left_out = source.columns - 1 - len(categories)
    notes = [f"{left_out} unused columns of the class predictors are left out."] if left_out else []
    plan = source.plan(len(categories))
    network = cast(SSD, plan.build())
    source.fill(network, list(categories))
    metadata = {
        "kind": f"{source.kind} of the TensorFlow Object Detection API ({source.file.kind})",
        "imported": "backbone, additional maps, box and class predictors",
        "folded": source.file.folded,
        "notes": [*notes, *source.file.notes],
    }
    return PublicDetector(plan, network.eval(), categories, size_hw or source.size_hw, metadata)


def _categories(source: "TensorFlowSSD", names: Sequence[str] | None) -> dict[int, str]:
    """Map category ids, which are the columns of the file, to names; unused columns have none."""
    path, columns = source.file.path, source.columns
    if names is None:
        if columns - 1 != COCO_IDS:
            raise WeightsError(
                f"{path}: a detector of {columns - 1} classes, not of COCO's {COCO_IDS} ids; name "
                "them with --labels, one a line, the first for background"
            )
        return dict(COCO_CATEGORIES)
    if len(names) == columns - 1:
        names = ["background", *names]
    if len(names) != columns:
        need = f"the class predictors of {path} have {columns} columns with background"
        raise DataError(f"--labels has {len(names)} lines, {need}; give one name a line")
    return {i: name for i, name in enumerate(names) if i > 0 and name != _UNUSED}


class TensorFlowSSD:
    """The file of a detector of TensorFlow's Object Detection API, and the ``SSD`` made of it.

    This one has a predictor for each map; the subclasses have one for all of them.

    Args:
        file: Arrays named as there: ``FeatureExtractor/MobilenetV1/...``,
            ``BoxPredictor_k/BoxEncodingPredictor`` and ``BoxPredictor_k/ClassPredictor``.

    Raises:
        WeightsError: It holds no such detector.
    """

    kind = "SSD"
    boxes, classes = "BoxPredictor_1/BoxEncodingPredictor", "BoxPredictor_1/ClassPredictor"
    """Scopes of the predictors of a map with six boxes a cell."""
    side = 300
    """Height and width of the published configuration's input, in pixels."""
    score_threshold = 0.01

    def __init__(self, file: SlimFile) -> None:
        self.file = file
        rows = file.tensors.shape(f"{self.boxes}/weights")[-1]
        self.columns = file.tensors.shape(f"{self.classes}/weights")[-1] // max(rows // 4, 1)
        """Columns of its class predictors, background included."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Input size in pixels; that of the published configuration where the file has none."""
        return self.file.input.size_hw or (self.side, self.side)

    def plan(self, num_classes: int) -> Plan:
        """Return class and arguments of the network."""
        limits = {
            "score_threshold": self.score_threshold, "iou_threshold": 0.6, "max_detections": 100
        }  # fmt: skip
        return Plan(
            SSD,
            {
                **self._arguments(),
                "num_classes": num_classes,
                "score_activation": "sigmoid",
                "postprocess": Plan(PostProcess, limits),
                "pixel_mean": self.file.input.pixel_mean,
                "pixel_std": self.file.input.pixel_std,
            },
        )

    def fill(self, network: SSD, class_columns: Sequence[int]) -> None:
        """Fill a network made by ``plan``; once, as every tensor is used once.

        ``class_columns`` are the file's columns of the classes; column 0 is background, and
        the others are left out.

        Raises:
            WeightsError: A tensor is missing, left over or of another shape, or the anchors differ.
        """
        self._fill(network, [0, *class_columns])
        self.file.tensors.require_all_used()
        self._compare_anchors(network)

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of the network in which the kinds differ."""
        return {
            "backbone": Plan(MobileNetV1, {"width_mult": self.file.width_mult}),
            "anchors": Plan(DefaultBoxes, {"aspect_ratios": RATIOS}),
        }

    def _fill(self, network: SSD, columns: Sequence[int]) -> None:
        tensors = self.file.tensors
        load_slim(cast(MobileNetV1, network.backbone), tensors, self.file.prefix)
        for number, module in enumerate(network.extras, start=2):
            extra = cast(ExtraMap, module)
            shrink = cast(ConvNormAct, extra.shrink)
            for stage, layer, kind in ((1, extra.reduce, "1x1"), (2, shrink, "3x3_s2")):
                channels = layer.conv.out_channels
                scope = f"{EXTRAS_SCOPE}_{stage}_Conv2d_{number}_{kind}_{channels}"
                load_slim_layer(layer, tensors, scope)
        for number, module in enumerate(network.predictors):
            predictor, scope = cast(MapPredictor, module), f"BoxPredictor_{number}"
            self._take_rows(predictor.boxes, f"{scope}/BoxEncodingPredictor", BOX_ORDER, 4)
            self._take_rows(predictor.classes, f"{scope}/ClassPredictor", columns, self.columns)

    @torch.no_grad()
    def _take_rows(self, conv: nn.Conv2d, scope: str, order: Sequence[int], width: int) -> None:
        """Fill a convolution with the rows ``order`` of each ``width`` rows of the file."""
        tensors = self.file.tensors
        rows = conv.out_channels // len(order) * width
        weight = tensors.take(f"{scope}/weights", (*conv.kernel_size, conv.in_channels, rows))
        bias = tensors.take(f"{scope}/bias", (rows,))
        conv.weight.copy_(_choose(weight.permute(3, 2, 0, 1), width, order))
        cast(Tensor, conv.bias).copy_(_choose(bias, width, order))

    def _compare_anchors(self, network: SSD) -> None:
        if not self.file.anchors:
            return
        height, width = self.size_hw
        with torch.inference_mode():
            corners = network.eval()(torch.zeros(1, 3, height, width)).anchors
        boxes = box_convert(corners, "xyxy", "cxcywh").numpy()[:, [1, 0, 3, 2]]
        expected = boxes / np.array([height, width, height, width], dtype=np.float32)
        for name, found in self.file.anchors.items():
            allowed = _QUANTIZED if name.endswith("_quantised") else _EXACT
            if found.shape != expected.shape or np.abs(found - expected).max() > allowed:
                raise WeightsError(
                    f"{self.file.path}: its {len(found)} {name} are not the {len(expected)} "
                    f"default boxes of {self.kind} at {height}x{width}: a detector of another "
                    "configuration"
                )


class TensorFlowPyramid(TensorFlowSSD):
    """Base of the detectors whose maps share one predictor, after a tower of convolutions."""

    boxes, classes = f"{SHARED_SCOPE}/BoxPredictor", f"{SHARED_SCOPE}/ClassPredictor"
    score_threshold = 1e-8
    depth: int
    kernel_size: int
    towers: tuple[str, ...]
    """Scopes of the towers: one for boxes and classes, or one for each."""

    def _predictors(self) -> Plan:
        options = {"depth": self.depth, "kernel_size": self.kernel_size}
        shared = len(self.towers) == 1
        return Plan(SharedPredictors, {**options, "shared_tower": shared}, later=True)

    def _fill(self, network: SSD, columns: Sequence[int]) -> None:
        tensors, pyramid = self.file.tensors, network.backbone
        load_slim(cast(MobileNetV1, pyramid.body), tensors, self.file.prefix)
        self._fill_pyramid(pyramid)
        predictors = cast(SharedPredictors, network.predictors)
        towers = (predictors.box_tower, predictors.class_tower)
        for name, tower in zip(self.towers, towers, strict=False):
            for number, module in enumerate(tower):
                layer, scope = cast(SharedLayer, module), f"{SHARED_SCOPE}/{name}/conv2d_{number}"
                take_kernel(cast(nn.Conv2d, layer.conv), tensors, scope)
                for index, norm in enumerate(layer.norms):
                    own = f"{scope}/BatchNorm/feature_{index}"
                    take_tensorflow_norm(cast(nn.BatchNorm2d, norm), tensors, own)
        self._take_rows(predictors.boxes, self.boxes, BOX_ORDER, 4)
        self._take_rows(predictors.classes, self.classes, columns, self.columns)

    def _fill_pyramid(self, pyramid: nn.Module) -> None:
        raise NotImplementedError


class TensorFlowPPN(TensorFlowPyramid):
    """A detector with a pooling pyramid: ssd_mobilenet_v1_ppn."""

    kind = "SSD with a pooling pyramid"
    depth, kernel_size, towers = 1, 1, ("PredictionTower",)

    def _arguments(self) -> dict[str, Any]:
        backbone = Plan(MobileNetV1, {"width_mult": self.file.width_mult, "out_strides": [16]})
        boxes = {"aspect_ratios": RATIOS, "min_scale": 0.15, "lowest_scale": None}
        return {
            "backbone": Plan(PoolingPyramid, {"backbone": backbone}),
            "extra_channels": [],
            "anchors": Plan(DefaultBoxes, boxes),
            "predictors": self._predictors(),
        }

    def _fill_pyramid(self, pyramid: nn.Module) -> None:  # noqa: ARG002
        blocks = (f"{self.file.prefix}MobilenetV1/Conv2d_{number}_" for number in (12, 13))
        if sum(map(self.file.tensors.drop_scope, blocks)):
            self.file.notes += ("Blocks 12 and 13 are left out, as nothing depends on them.",)


class TensorFlowFPN(TensorFlowPyramid):
    """A detector with a feature pyramid: ssd_mobilenet_v1_fpn."""

    kind = "SSD with a feature pyramid"
    side = 640
    depth, kernel_size, towers = 4, 3, ("BoxPredictionTower", "ClassPredictionTower")

    def _arguments(self) -> dict[str, Any]:
        backbone = {"width_mult": self.file.width_mult, "out_strides": [8, 16, 32]}
        channels = max(int(256 * self.file.width_mult), 16)
        pyramid = {"backbone": Plan(MobileNetV1, backbone), "channels": channels}
        return {
            "backbone": Plan(FeaturePyramid, pyramid),
            "extra_channels": [],
            "anchors": Plan(MultiscaleAnchors, {}),
            "predictors": self._predictors(),
        }

    def _fill_pyramid(self, pyramid: nn.Module) -> None:
        tensors, made = self.file.tensors, cast(FeaturePyramid, pyramid)
        for number, module in enumerate(made.projections, start=1):
            projection, scope = cast(nn.Conv2d, module), f"{FPN_SCOPE}/projection_{number}"
            self._take_rows(projection, scope, range(1), 1)
        for number, layer in enumerate(made.smoothing, start=1):
            load_slim_layer(cast(ConvNormAct, layer), tensors, f"{FPN_SCOPE}/smoothing_{number}")
        for number, layer in enumerate(made.coarser, start=14):
            scope = f"{FPN_SCOPE}/bottom_up_Conv2d_{number}"
            load_slim_layer(cast(ConvNormAct, layer), tensors, scope)


def open_detector(path: Path) -> TensorFlowSSD:
    """Return the detector of a file, of the kind that its names tell.

    Raises:
        WeightsError: As ``SlimFile``, or it holds no such detector.
    """
    file = SlimFile(path)
    if not file.is_detector:
        raise WeightsError(f"{path}: a classifier, and no SSD of the Object Detection API")
    if f"{TensorFlowPyramid.classes}/weights" not in file.tensors:
        return TensorFlowSSD(file)
    if f"{FPN_SCOPE}/projection_1/weights" in file.tensors:
        return TensorFlowFPN(file)
    return TensorFlowPPN(file)


def load_tensorflow_ssd(path: str | Path, width_mult: float) -> SSD:
    """Return the public COCO detector of a file with TensorFlow's names, in evaluation mode.

    Class index k is COCO category id k + 1.

    Raises:
        WeightsError: See ``resolve_weights`` and ``open_detector``; also if ``width_mult`` is not
            the file's.
    """
    source = open_detector(resolve_weights(path))
    if source.file.width_mult != width_mult:
        raise WeightsError(
            f"{source.file.path}: its width_mult is {source.file.width_mult:g}, not {width_mult:g}"
        )
    network = cast(SSD, source.plan(COCO_IDS).build())
    source.fill(network, range(1, COCO_IDS + 1))
    return network.eval()


def _choose(rows: Tensor, width: int, order: Sequence[int]) -> Tensor:
    """Return of each group of ``width`` output rows those of ``order``, in that order."""
    return rows.reshape(-1, width, *rows.shape[1:])[:, list(order)].flatten(0, 1)

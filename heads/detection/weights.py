"""Public SSD weights of the TensorFlow Object Detection API, loaded strictly by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from ...backbone.layers import ConvNormAct
from ...backbone.mobilenet import MobileNetV1
from ...backbone.weights.converters import SlimFile, load_folded_layer, load_slim
from ...backbone.weights.formats import FileTensors, file_format
from ...backbone.weights.hub import resolve_weights
from ...backbone.weights.loading import WeightsError
from ...datasets.detection.coco import COCO_CATEGORIES
from ...datasets.errors import DataError
from ..checkpoint import Plan
from .boxes import DefaultBoxes, PostProcess
from .ssd import SSD, ExtraMap, MapPredictor

EXTRAS_SCOPE = "FeatureExtractor/MobilenetV1/Conv2d_13_pointwise"
# The file's box offsets are (y, x, height, width), those of this package (x, y, width, height).
BOX_ORDER = (1, 0, 3, 2)
COCO_IDS = 90  # its columns are COCO category ids: 0 is background, ten of the 90 are unused
SIZE_HW = (300, 300)
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
    """Return whether ``read_detector`` reads this weight file; of others a WeightsError tells."""
    return file_format(path) in ("npz", "tflite") and SlimFile(path).is_detector


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
    source = TensorFlowSSD(path)
    categories = _categories(source, names)
    left_out = source.columns - 1 - len(categories)
    notes = [f"{left_out} unused columns of the class predictors are left out."] if left_out else []
    plan = source.plan(len(categories))
    network = cast(SSD, plan.build())
    source.fill(network, list(categories))
    metadata = {
        "kind": f"SSD of the TensorFlow Object Detection API ({source.file.kind})",
        "imported": "backbone, additional maps, box and class predictors",
        "folded": True,
        "notes": notes,
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
    """A weight file of TensorFlow's detector, and the ``SSD`` made of it.

    Args:
        path: An ``.npz`` or a ``.tflite`` file with arrays as in the Object Detection API:
            ``FeatureExtractor/MobilenetV1/...``, ``BoxPredictor_k/BoxEncodingPredictor`` and
            ``BoxPredictor_k/ClassPredictor``. Batch normalization is folded into it.

    Raises:
        WeightsError: No such file, or it holds no such detector.
    """

    def __init__(self, path: Path) -> None:
        self.file = SlimFile(path)
        if not self.file.is_detector:
            raise WeightsError(f"{path}: a classifier, and no SSD of the Object Detection API")
        tensors = self.file.tensors
        boxes = tensors.shape("BoxPredictor_1/BoxEncodingPredictor/weights")[-1] // 4
        self.columns = tensors.shape("BoxPredictor_1/ClassPredictor/weights")[-1] // boxes
        """Columns of its class predictors, background included."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Input size in pixels."""
        return self.file.input.size_hw or SIZE_HW

    def plan(self, num_classes: int) -> Plan:
        """Return class and arguments of the SSD, with the post-processing of the file."""
        limits = {"score_threshold": 0.01, "iou_threshold": 0.6, "max_detections": 100}
        ratios = [1.0, 2.0, 0.5, 3.0, 0.3333]  # its rounding of 1/3
        return Plan(
            SSD,
            {
                "backbone": Plan(MobileNetV1, {"width_mult": self.file.width_mult}),
                "num_classes": num_classes,
                "score_activation": "sigmoid",
                "anchors": Plan(DefaultBoxes, {"aspect_ratios": ratios}),
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
        tensors = self.file.tensors
        load_slim(cast(MobileNetV1, network.backbone), tensors, self.file.prefix)
        for number, module in enumerate(network.extras, start=2):
            extra = cast(ExtraMap, module)
            shrink = cast(ConvNormAct, extra.shrink)
            for stage, layer, kind in ((1, extra.reduce, "1x1"), (2, shrink, "3x3_s2")):
                channels = layer.conv.out_channels
                scope = f"{EXTRAS_SCOPE}_{stage}_Conv2d_{number}_{kind}_{channels}"
                load_folded_layer(layer, tensors, scope)
        columns = [0, *class_columns]
        for number, module in enumerate(network.predictors):
            scope = f"BoxPredictor_{number}"
            _load_predictor(cast(MapPredictor, module), tensors, scope, self.columns, columns)
        tensors.require_all_used()
        self._compare_anchors(network)

    def _compare_anchors(self, network: SSD) -> None:
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
                    f"default boxes of SSD at {height}x{width}: a detector of another configuration"
                )


def load_tensorflow_ssd(path: str | Path, width_mult: float) -> SSD:
    """Return the public COCO detector of a file with TensorFlow's names, in evaluation mode.

    Class index k is COCO category id k + 1. Batch normalization is folded into the file.

    Raises:
        WeightsError: See ``resolve_weights`` and ``TensorFlowSSD``; also if ``width_mult`` is not
            the file's.
    """
    source = TensorFlowSSD(resolve_weights(path))
    if source.file.width_mult != width_mult:
        raise WeightsError(
            f"{source.file.path}: its width_mult is {source.file.width_mult:g}, not {width_mult:g}"
        )
    network = cast(SSD, source.plan(COCO_IDS).build())
    source.fill(network, range(1, COCO_IDS + 1))
    return network.eval()


@torch.no_grad()
def _load_predictor(
    predictor: MapPredictor,
    tensors: FileTensors,
    scope: str,
    file_columns: int,
    columns: Sequence[int],
) -> None:
    boxes = predictor.boxes.out_channels // 4
    for conv, name, width in (
        (predictor.boxes, "BoxEncodingPredictor", 4),
        (predictor.classes, "ClassPredictor", file_columns),
    ):
        rows = boxes * width
        weight = tensors.take(f"{scope}/{name}/weights", (1, 1, conv.in_channels, rows))
        bias = tensors.take(f"{scope}/{name}/bias", (rows,))
        order = BOX_ORDER if conv is predictor.boxes else columns
        kernel, offset = (_choose(rows, width, order) for rows in (weight[0, 0].T, bias))
        conv.weight.copy_(kernel[..., None, None])
        cast(Tensor, conv.bias).copy_(offset)


def _choose(rows: Tensor, width: int, order: Sequence[int]) -> Tensor:
    """Return of each group of ``width`` output rows those of ``order``, in that order."""
    return rows.reshape(-1, width, *rows.shape[1:])[:, list(order)].flatten(0, 1)

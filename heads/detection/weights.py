"""Public SSD weights of the TensorFlow Object Detection API into our SSD, strictly by name."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...backbone.hub import resolve_weights
from ...backbone.mobilenet import MobileNetV1
from ...backbone.weights import WeightsError, load_folded_layer, load_slim, read_arrays
from .anchors import DefaultBoxes
from .predictors import MapPredictor
from .ssd import SSD, ExtraMap

EXTRAS_SCOPE = "FeatureExtractor/MobilenetV1/Conv2d_13_pointwise"
# The file's box offsets are (y, x, height, width), ours (x, y, width, height).
OUR_BOX_ORDER = (1, 0, 3, 2)
COCO_IDS = 90  # its columns are COCO category ids: 0 is background, ten of the 90 are unused


def load_tensorflow_ssd(path: str | Path, width_mult: float) -> SSD:
    """Return the public COCO detector of a file with TensorFlow's names, in evaluation mode.

    Class index k is COCO category id k + 1. Batch normalisation is folded into the file.

    Args:
        path: A public name, a ``.npz`` or a ``.tflite`` file (see ``backbone.weights``) with arrays
            as in the Object Detection API: ``FeatureExtractor/MobilenetV1/...``,
            ``BoxPredictor_k/BoxEncodingPredictor`` and ``BoxPredictor_k/ClassPredictor``.
        width_mult: The file's depth multiplier.

    Raises:
        WeightsError: no such file, or an array is missing, left over or of another shape.
    """
    path = resolve_weights(path)
    arrays = read_arrays(path)
    network = SSD(
        MobileNetV1(width_mult=width_mult),
        num_classes=COCO_IDS,
        score_activation="sigmoid",
        anchors=DefaultBoxes(aspect_ratios=(1.0, 2.0, 0.5, 3.0, 0.3333)),  # its rounding of 1/3
        pixel_mean=128.0,
        pixel_std=128.0,
    )
    load_slim(cast(MobileNetV1, network.backbone), arrays, path)
    for number, module in enumerate(network.extras, start=2):
        extra = cast(ExtraMap, module)
        for stage, layer, kind in ((1, extra.reduce, "1x1"), (2, extra.shrink, "3x3_s2")):
            channels = layer.conv.out_channels
            scope = f"{EXTRAS_SCOPE}_{stage}_Conv2d_{number}_{kind}_{channels}"
            load_folded_layer(layer, arrays, scope, path)
    for number, module in enumerate(network.predictors):
        _load_predictor(cast(MapPredictor, module), arrays, f"BoxPredictor_{number}", path)
    left = sorted(name for name in arrays if not name.startswith("anchors"))
    if left:
        raise WeightsError(f"{path}: {len(left)} arrays have no place in this SSD: {left[:5]}")
    return network.eval()


@torch.no_grad()
def _load_predictor(
    predictor: MapPredictor, arrays: dict[str, np.ndarray], scope: str, path: Path
) -> None:
    for conv, name in (
        (predictor.boxes, "BoxEncodingPredictor"),
        (predictor.classes, "ClassPredictor"),
    ):
        weight = arrays.pop(f"{scope}/{name}/weights", None)
        bias = arrays.pop(f"{scope}/{name}/bias", None)
        if weight is None or bias is None:
            raise WeightsError(f"{path}: {scope}/{name} is missing")
        if weight.shape[2:] != (conv.in_channels, conv.out_channels):
            raise WeightsError(
                f"{path}: {scope}/{name}/weights has shape {weight.shape}, the network wants "
                f"(1, 1, {conv.in_channels}, {conv.out_channels}); does width_mult fit this file?"
            )
        kernel, offset = torch.from_numpy(weight[0, 0].T.copy()), torch.from_numpy(bias)
        if conv is predictor.boxes:
            kernel, offset = _reorder(kernel), _reorder(offset)
        conv.weight.copy_(kernel[..., None, None])
        cast(Tensor, conv.bias).copy_(offset)


def _reorder(rows: Tensor) -> Tensor:
    """Bring groups of four output rows from the file's order to ours."""
    return rows.reshape(-1, 4, *rows.shape[1:])[:, OUR_BOX_ORDER].reshape(rows.shape)

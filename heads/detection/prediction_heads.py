"""Prediction heads from maps to box offsets and class logits, for each map or shared."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...backbone.layers import ConvNormAct, PaddedConv2d
from .anchors import ScoreActivation

OBJECT_PRIOR = 0.01  # nearly every anchor is background


class MapPredictor(nn.Module):
    """Box offsets and class logits of one map, by one 1x1 convolution each."""

    def __init__(self, in_channels: int, boxes_per_cell: int, num_columns: int) -> None:
        super().__init__()
        self.num_columns = num_columns
        self.boxes = nn.Conv2d(in_channels, boxes_per_cell * 4, 1)
        self.classes = nn.Conv2d(in_channels, boxes_per_cell * num_columns, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return offsets (B, H*W*boxes, 4) and logits (B, H*W*boxes, columns) of (B, C, H, W)."""
        return as_rows(self.boxes(features), 4), as_rows(self.classes(features), self.num_columns)


class DepthwisePredictor(MapPredictor):
    """The same after a 3x3 depthwise convolution each (Sandler et al. 2018, Section 6.2)."""

    def __init__(self, in_channels: int, boxes_per_cell: int, num_columns: int) -> None:
        super().__init__(in_channels, boxes_per_cell, num_columns)
        self.boxes_depthwise = ConvNormAct(in_channels, in_channels, 3, groups=in_channels)
        self.classes_depthwise = ConvNormAct(in_channels, in_channels, 3, groups=in_channels)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """See ``MapPredictor``."""
        deltas = self.boxes(self.boxes_depthwise(features))
        logits = self.classes(self.classes_depthwise(features))
        return as_rows(deltas, 4), as_rows(logits, self.num_columns)


class Predictors(nn.ModuleList):
    """SSD's predictors, one 1x1 ``MapPredictor`` for each map; base of the other kinds.

    Args:
        channels: Channels of each map.
        boxes_per_cell: Anchors at each position of each map.
        num_columns: Classes and background.
    """

    kind: type[nn.Module] = MapPredictor
    init_std = 0.03
    """Standard deviation of fresh weights."""

    def __init__(
        self, channels: Sequence[int], boxes_per_cell: Sequence[int], num_columns: int
    ) -> None:
        super().__init__(
            self.kind(width, boxes, num_columns)
            for width, boxes in zip(channels, boxes_per_cell, strict=True)
        )
        self.num_columns = num_columns

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return offsets (B, H*W*boxes, 4) and logits (B, H*W*boxes, columns) of each map."""
        return [predict(map_) for predict, map_ in zip(self, maps, strict=True)]

    def class_layers(self) -> list[nn.Conv2d]:
        """Return the convolutions that give the logits."""
        return [cast(MapPredictor, predictor).classes for predictor in self]

    def initialize(self, score_activation: ScoreActivation) -> None:
        """Draw fresh weights; by the biases an anchor is an object with probability 0.01.

        With ``softmax`` that is all classes together, with ``sigmoid`` each (Lin et al. 2017,
        Section 4.1).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=self.init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        prior = math.log((1 - OBJECT_PRIOR) / OBJECT_PRIOR)
        for layer in self.class_layers():
            columns = cast(Tensor, layer.bias).detach().view(-1, self.num_columns)
            if score_activation == "softmax":
                columns[:, 0] = prior + math.log(self.num_columns - 1)
            else:
                columns[:, 0], columns[:, 1:] = prior, -prior


class DepthwisePredictors(Predictors):
    """SSDLite's predictors, a ``DepthwisePredictor`` for each map (Sandler et al. 2018)."""

    kind = DepthwisePredictor


class SharedPredictors(Predictors):
    """One predictor for all maps of a pyramid (Lin et al. 2017, RetinaNet, Section 4).

    Two towers of 3x3 convolutions, one for boxes and one for classes, and a 3x3 convolution at the
    end of each. As in TensorFlow's SSD with a feature pyramid each map has batch normalization of
    its own, since the statistics of the maps differ, and the activation is ReLU6.

    Args:
        channels: Channels of each map, all the same.
        boxes_per_cell: Anchors at each position of each map, all the same.
        num_columns: Classes and background.
        depth: Convolutions of each tower.
        depthwise: Depthwise separable convolutions in the towers, about an eighth of the cost at
            256 channels.

    Raises:
        ValueError: The maps differ in channels or boxes.
    """

    init_std = 0.01

    def __init__(
        self,
        channels: Sequence[int],
        boxes_per_cell: Sequence[int],
        num_columns: int,
        depth: int = 4,
        depthwise: bool = False,
    ) -> None:
        if len(set(channels)) != 1 or len(set(boxes_per_cell)) != 1:
            raise ValueError(
                "a shared predictor needs maps of equal channels and boxes, got channels "
                f"{tuple(channels)} and boxes per cell {tuple(boxes_per_cell)}"
            )
        super().__init__([], [], num_columns)
        width, boxes, maps = channels[0], boxes_per_cell[0], len(channels)
        self.box_tower = nn.ModuleList(SharedLayer(width, maps, depthwise) for _ in range(depth))
        self.class_tower = nn.ModuleList(SharedLayer(width, maps, depthwise) for _ in range(depth))
        self.boxes = nn.Conv2d(width, boxes * 4, 3, padding=1)
        self.classes = nn.Conv2d(width, boxes * num_columns, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """See ``Predictors``."""
        predictions = []
        for index, features in enumerate(maps):
            boxes = classes = features
            for layer in self.box_tower:
                boxes = layer(boxes, index)
            for layer in self.class_tower:
                classes = layer(classes, index)
            logits = as_rows(self.classes(classes), self.num_columns)
            predictions.append((as_rows(self.boxes(boxes), 4), logits))
        return predictions

    def class_layers(self) -> list[nn.Conv2d]:
        """Return the convolution that gives the logits."""
        return [self.classes]


class SharedLayer(nn.Module):
    """A 3x3 convolution for all maps, batch normalization for each, ReLU6."""

    def __init__(self, channels: int, num_maps: int, depthwise: bool) -> None:
        super().__init__()
        if depthwise:
            self.conv = nn.Sequential(
                PaddedConv2d(channels, channels, 3, groups=channels),
                PaddedConv2d(channels, channels, 1),
            )
        else:
            self.conv = PaddedConv2d(channels, channels, 3)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03) for _ in range(num_maps)
        )

    def forward(self, features: Tensor, index: int) -> Tensor:
        """Return (B, C, H, W) for features (B, C, H, W) of the map with this index."""
        return F.relu6(self.norms[index](self.conv(features)))


MakePredictors = Callable[[Sequence[int], Sequence[int], int], Predictors]


def as_rows(raw: Tensor, columns: int) -> Tensor:
    """Return a map (B, boxes*columns, H, W) as (B, H*W*boxes, columns): cell by cell."""
    # Not len(): an exported network would take batches of one size only.
    return raw.permute(0, 2, 3, 1).reshape(raw.shape[0], -1, columns)

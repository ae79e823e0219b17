"""SSD's default boxes, made once for each input size (Liu et al. 2016, Section 2.2)."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

SizeHW = tuple[int, int]


class DefaultBoxes(nn.Module):
    """Default boxes as the MobileNet paper's detector has them (TensorFlow's SSD anchors).

    Scales rise linearly from ``min_scale`` to ``max_scale``, one for each map. The finest map has
    three boxes a cell: ``lowest_scale`` at ratio 1, its own scale at ratios 2 and 1/2. The others
    have one for each of ``aspect_ratios`` and one of ratio 1 at the geometric mean of their scale
    and the next (the last map's next scale is 1).

    Sizes are fractions of the picture's height and width, so on a picture that is not square a box
    of ratio 1 has the picture's own shape.

    Args:
        num_maps: How many feature maps the boxes are for.
        min_scale: Scale of the finest map.
        max_scale: Scale of the coarsest map.
        lowest_scale: Scale of the additional small box on the finest map.
        aspect_ratios: Width / height of the boxes on all maps but the finest.
    """

    def __init__(
        self,
        num_maps: int = 6,
        min_scale: float = 0.2,
        max_scale: float = 0.95,
        lowest_scale: float = 0.1,
        aspect_ratios: Sequence[float] = (1.0, 2.0, 1 / 2, 3.0, 1 / 3),
    ) -> None:
        super().__init__()
        step = (max_scale - min_scale) / max(num_maps - 1, 1)
        scales = [min_scale + step * index for index in range(num_maps)] + [1.0]
        shapes = [[(lowest_scale, 1.0), (scales[0], 2.0), (scales[0], 0.5)]]
        for scale, following in list(pairwise(scales))[1:]:
            mean = math.sqrt(scale * following)
            shapes.append([*((scale, ratio) for ratio in aspect_ratios), (mean, 1.0)])
        self.shapes_hw = [
            [(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for scale, ratio in of_map]
            for of_map in shapes
        ]
        self._cache: dict[tuple[SizeHW, tuple[SizeHW, ...], torch.device], Tensor] = {}

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Boxes at each position of each map."""
        return tuple(len(shapes) for shapes in self.shapes_hw)

    def forward(
        self, size_hw: SizeHW, map_sizes_hw: Sequence[SizeHW], device: torch.device
    ) -> Tensor:
        """Return the boxes (A, 4) float32 xyxy in pixels of a picture of ``size_hw``.

        Rows run over maps, then rows of cells, then cells, then boxes of a cell; centres are at
        (i + 0.5) / cells. Boxes reach over the picture's edge where their centre is near it.
        """
        key = ((size_hw[0], size_hw[1]), tuple(map_sizes_hw), device)
        if key not in self._cache:
            self._cache[key] = self._make(*key)
        return self._cache[key]

    @torch.inference_mode(False)  # what validation makes first has to serve training too
    def _make(self, size_hw: SizeHW, maps_hw: Sequence[SizeHW], device: torch.device) -> Tensor:
        rows = []
        for (map_height, map_width), shapes in zip(maps_hw, self.shapes_hw, strict=True):
            y = (torch.arange(map_height, dtype=torch.float64) + 0.5) / map_height
            x = (torch.arange(map_width, dtype=torch.float64) + 0.5) / map_width
            half = torch.tensor(shapes, dtype=torch.float64).flip(1) / 2  # (boxes, 2) as x, y
            centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
            centres = centres[:, :, None, :]
            rows.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
        height, width = size_hw
        pixels = torch.tensor([width, height, width, height], dtype=torch.float64)
        return (torch.cat(rows) * pixels).float().to(device)

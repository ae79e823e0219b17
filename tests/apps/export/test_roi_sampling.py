"""RoIAlign by ``grid_sample`` beside torchvision's."""

import torch
from torchvision.ops import roi_align as torchvision_roi_align

from mobilevision.apps.export.roi_sampling import roi_align


def test_roi_align__boxes_within_several_pictures__as_torchvision() -> None:
    torch.manual_seed(0)
    features = torch.rand(2, 3, 7, 9)
    corners = torch.rand(20, 2, 2).sort(dim=1).values * torch.tensor([144.0, 112.0])
    rows = torch.cat([torch.arange(2.0).repeat_interleave(10)[:, None], corners.flatten(1)], dim=1)
    arguments = {"spatial_scale": 1 / 16, "sampling_ratio": 2, "aligned": True}
    expected = torchvision_roi_align(features, rows, (4, 3), **arguments)
    found = roi_align(features, rows, pooled_height=4, pooled_width=3, **arguments)
    torch.testing.assert_close(found, expected)

"""The network: MobileNet, global average pooling and one number."""

from typing import cast

from torch import Tensor, nn

from mobilevision.backbone.mobilenet import Backbone


class BrightnessNetwork(nn.Module):
    """Estimate how bright images are.

    Args:
        backbone: Its last map is used.
        pixel_mean: Subtracted from the uint8 pixels.
        pixel_std: Then divided by.
    """

    def __init__(
        self, backbone: nn.Module, pixel_mean: float = 127.5, pixel_std: float = 127.5
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(cast(Backbone, backbone).feature_info.channels[-1], 1)
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,) of the brightness for images (B, 3, H, W) uint8 RGB."""
        maps = self.backbone((images.float() - self.pixel_mean) / self.pixel_std)
        return self.head(maps[-1].mean(dim=(2, 3)))[:, 0]

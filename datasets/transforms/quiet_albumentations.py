"""albumentations as ``A``, without the question to a server that it asks at import."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A  # noqa: N812

__all__ = ["A"]

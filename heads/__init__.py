"""The jobs on top of a backbone: networks, losses, measures and LightningModules."""

from ..backbone.lazy import lazy_attributes

__all__ = ["lazy_attributes"]

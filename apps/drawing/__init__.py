"""Boxes, labels and attributes onto pictures."""

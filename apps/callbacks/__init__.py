"""Callbacks of trainings and evaluations: averaged weights, images, curves."""

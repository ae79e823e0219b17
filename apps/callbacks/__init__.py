"""Callbacks of trainings and evaluations: averaged weights, pictures, curves."""

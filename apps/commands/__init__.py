"""The commands of ``mobilevision``, one light module for each group."""

from . import data, evaluate, experiments, export, gallery, predict, weights

COMMANDS = {
    **predict.COMMANDS,
    **gallery.COMMANDS,
    **data.COMMANDS,
    **evaluate.COMMANDS,
    **experiments.COMMANDS,
    **weights.COMMANDS,
    **export.COMMANDS,
}
"""Words of the command -> the command, in the order of the help."""

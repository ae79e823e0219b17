"""The error of weight files that a person can mend."""


class WeightsError(ValueError):
    """A weight file is absent or does not fit; the message names the file and what to do."""

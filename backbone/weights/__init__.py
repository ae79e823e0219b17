"""Public weight files, their formats and converters."""

"""Where pictures were taken, from Python and over files."""

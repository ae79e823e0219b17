"""Detection from Python and over files, and its measures."""

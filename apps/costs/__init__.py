"""What networks cost, in the paper's tables and against accuracy."""

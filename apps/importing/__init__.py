"""Published weights into checkpoints."""

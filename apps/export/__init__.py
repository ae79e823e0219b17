"""From a checkpoint to a file that runs without torch: one small class for each format."""

"""Image and box transforms, run on the CPU as samples are read."""

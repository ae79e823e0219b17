"""Pictures and videos in, tables out, and what a long command has done so far."""

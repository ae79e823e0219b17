"""Many trainings, run directories, and what they reached."""

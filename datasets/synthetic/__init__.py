"""Generated data for every job, written once as real files."""

"""Run a predictor over any number of files: what is read, what is kept, what is written."""

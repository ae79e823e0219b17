"""Every model is images in, named outputs and metadata out: runtimes, and one page for each job."""

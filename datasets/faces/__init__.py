"""Face data: CelebA, LFW and tables, for attributes and embeddings."""

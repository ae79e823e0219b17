"""What runs a network: one small class for each runtime."""

"""The jobs: one folder each, with its model, its losses, its LightningModule and its card."""

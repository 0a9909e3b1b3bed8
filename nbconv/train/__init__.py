"""Training: losses, optimizers, data, the trainer."""

"""Training: loop, stages, recipe, losses, augmentation, batches, checkpoints and processes."""

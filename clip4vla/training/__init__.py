"""Training: the loop, gradients, the optimiser, validation and resumable state."""

"""Training: losses, tasks, the loop and its resumable state."""

"""Files of weights: written, read, converted."""

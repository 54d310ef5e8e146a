"""Scores of a model, and donors for silent clips. Training validates with it, not the reverse."""

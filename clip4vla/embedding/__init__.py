"""Vectors of texts, sounds and pictures from a trained checkpoint, for use outside this project."""

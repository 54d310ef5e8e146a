"""Scores and their uncertainty: arrays in, numbers out. Knows no model."""

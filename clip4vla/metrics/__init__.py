"""Metrics and their confidence intervals, computed from arrays. Imports no model."""

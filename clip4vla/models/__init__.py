"""Towers, pooling, similarity, heads and weight files. Knows no data."""

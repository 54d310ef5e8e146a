"""Cached shards to batches: samples, order, masking, tokens and the loader."""

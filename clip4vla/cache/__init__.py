"""Decoded media to frozen shards: log-mel, frames, index, manifest, verification and repair."""

"""From decoded media to tensors: audio front-end, frames, shards, cache, order and samples."""

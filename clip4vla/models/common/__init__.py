"""Parts that model families share: blocks, pooling, similarity, probes and weight archives."""

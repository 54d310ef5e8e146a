"""Pages of examples: what an evaluation got right and wrong, and whose audio silent clips have."""

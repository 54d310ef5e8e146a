"""Pages to look at: what an evaluation got right and wrong, and whose sound silent clips have."""

"""The groups of commands of `clip4vla`: each one reads its options and calls a stage."""

"""Read, write and convert files of weights."""

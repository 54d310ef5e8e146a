"""The runs of a working folder: listed, compared, removed."""

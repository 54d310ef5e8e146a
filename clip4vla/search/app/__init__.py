"""A page that searches an index: `clip4vla app`."""

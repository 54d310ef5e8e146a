"""One checkpoint scored on one split, with its variants."""

"""CLIP4VLA (AAAI 2023): towers, fusion, captioner, and the weights of others."""

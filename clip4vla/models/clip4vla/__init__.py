"""CLIP4VLA (AAAI 2023): towers, fusion, captioner, and import of published weights."""

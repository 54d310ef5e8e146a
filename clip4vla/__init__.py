"""CLIP4VLA: audio as a third modality of CLIP, rebuilt from raw videos to the paper's tables."""

__version__ = "0.1.0"

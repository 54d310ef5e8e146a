"""CLIP4VLA: audio as a third modality of CLIP, rebuilt from raw videos to the paper's tables."""

__version__ = "0.1.0"


def load(path):
    """The model of a file of weights that this project trained or imported, ready to use.

    Gives a `clip4vla.models.checkpoint.Checkpoint`: `model` (evaluation mode, CPU), `settings` and
    `metadata`. UserError, with the remedy, for any other file.
    """
    from clip4vla.models.checkpoint import read_checkpoint  # torch is imported only here

    return read_checkpoint(path)

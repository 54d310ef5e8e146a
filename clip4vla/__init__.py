"""CLIP4VLA: audio as a third modality of CLIP, rebuilt from raw videos to the paper's tables."""

from typing import TYPE_CHECKING

from clip4vla.common.late_packages import delay_packages

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from clip4vla.search.embedder import Embedder

__version__ = "0.1.0"
delay_packages()


def load(
    path: "str | Path", device: "str | torch.device | None" = None, batch_size: int = 64
) -> "Embedder":
    """Return an embedder from a file of weights that this project trained or imported.

    path: such a file, or one on the Hugging Face Hub: `hf://OWNER/NAME`, with `@` and a branch, tag
    or commit if needed. It is downloaded once, into the cache of huggingface_hub.
    It is a `clip4vla.search.embedder.Embedder`: methods `embed_text`, `embed_audio`,
    `embed_video`, `similarity`, `embed_clips` and `rank`, and `model` (evaluation mode),
    `settings` and `metadata`.
    device: such as "cpu" or "cuda:1"; None: a GPU if there is one. batch_size: frames or segments
    that pass a tower at once. Raises UserError for any other file.
    """
    from clip4vla.search.embedder import load  # torch is imported only here

    return load(path, device, batch_size)


def snakefile() -> str:
    """Return the path of the workflow's Snakefile, for a `module` of a Snakefile of your own."""
    from clip4vla.common.packaged import workflow_file

    return str(workflow_file("workflow/Snakefile"))

"""CLIP alone out of a file of ours: what `model.weights` takes."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from clip4vla.common.files import whole_file

PARTS = ("text.", "vision.", "logit_scale")


def write_clip(model: Path, out: Path) -> None:
    """Text and vision tower of a model.safetensors, without the audio tower."""
    kept = {name: value for name, value in load_file(model).items() if name.startswith(PARTS)}
    with whole_file(out) as temporary:
        save_file(kept, temporary)

"""Deterministic tiny checkpoints for the reference vectors in this folder.

`openai_clip_state(layout)` gives a state dict with the key names and shapes of OpenAI's CLIP
archive; `released_state(layout, kind)` gives one with the key names of the released CLIP4VLA code,
for kind "pretrain", "retrieval" or "caption". Every tensor is drawn from its own generator, seeded
by (layout seed, crc32 of the key), so nothing large has to be stored. Run as a script it writes all
four files into a folder: `python reference_checkpoints.py OUT_DIR`.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def load_layout(path=HERE / "layout.json"):
    return json.loads(Path(path).read_text())


def draw(key, shape, scale, seed):
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
    return torch.from_numpy((generator.standard_normal(shape) * scale).astype(np.float32))


def tensor_for(key, shape, seed):
    if key == "cls.predictions.decoder.weight":  # tied to the token embedding
        key = "clip.token_embedding.weight"
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "logit_scale":
        return torch.tensor(np.float32(np.log(100.0)))
    norm = any(
        t in key for t in ("ln_1.", "ln_2.", "ln_pre.", "ln_post.", "ln_final.", "LayerNorm.")
    )
    if norm and leaf == "weight":
        return draw(key, shape, 0.05, seed) + 1.0
    if leaf == "bias" or leaf.endswith("_bias"):
        return draw(key, shape, 0.02, seed)
    if "embedding" in key:
        scale = 0.3 if "control" in key or "token_type" in key else 0.05
        return draw(key, shape, scale, seed)
    if leaf in ("proj", "text_projection"):
        return draw(key, shape, shape[0] ** -0.5, seed)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    return draw(key, shape, fan_in**-0.5, seed)


def released_state(layout, kind):
    """State dict as the released code saves it (keys clip.*, audio.*, cross.*, ...)."""
    return {k: tensor_for(k, tuple(s), layout["seed"]) for k, s in layout["layouts"][kind].items()}


def openai_clip_state(layout):
    """The same vision and text weights under OpenAI's names, with its vocabulary of 49,408 rows."""
    state = {
        k.removeprefix("clip."): v
        for k, v in released_state(layout, "pretrain").items()
        if k.startswith("clip.")
    }
    state["token_embedding.weight"] = state["token_embedding.weight"][:49408].clone()
    return state


def rng(tag, seed):
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(tag.encode())]))


def inputs(seed, batch=5, frames=3, segments=2):
    """The clip inputs of the vectors: frames [B,F,3,224,224], audio segments [B,S,3,224,224], and
    the 'augmented' audio used for the intra-modal loss."""
    video = rng("video", seed).standard_normal((batch, frames, 3, 224, 224)).astype(np.float32)
    audio = rng("audio", seed).standard_normal((batch, segments, 3, 224, 224)).astype(np.float32)
    augmented = (audio + 0.3 * rng("audio_aug", seed).standard_normal(audio.shape)).astype(
        np.float32
    )
    return video, audio, augmented


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    layout = load_layout()
    torch.save(openai_clip_state(layout), out / "openai_clip.pt")
    for kind in layout["layouts"]:
        torch.save(released_state(layout, kind), out / f"released_{kind}.bin")
    print(*sorted(p.name for p in out.iterdir()))

"""The folder of reference vectors: the stored one, or the one that CLIP4VLA_REFERENCE names."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import reference_checkpoints

STORED = Path(__file__).parent / "reference"
HEAD_WIDTH = 64  # OpenAI's convention: heads = width / 64
TYPES = [0.0, 1.0, 1.0, 0.0, 1.0]  # nonverbal or not, clip by clip


@pytest.fixture(scope="session")
def reference_folder():
    return Path(os.environ.get("CLIP4VLA_REFERENCE", STORED))


@pytest.fixture(scope="session")
def layout(reference_folder):
    return json.loads((reference_folder / "layout.json").read_text())


@pytest.fixture(scope="session")
def vectors(reference_folder):
    with np.load(reference_folder / "vectors.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def released_file(layout, tmp_path_factory):
    """released_file(kind): a state dict under the names of the released code, as a file."""
    import torch

    folder = tmp_path_factory.mktemp("released")

    def write(kind):
        path = folder / f"released_{kind}.bin"
        if not path.exists():
            torch.save(reference_checkpoints.released_state(layout, kind), path)
        return path

    return write


@pytest.fixture(scope="session")
def sizes(layout):
    from clip4vla.models.clip4vla.architecture import Architecture

    shapes = layout["layouts"]["pretrain"]
    positions, width = shapes["clip.positional_embedding"]
    return Architecture(
        embed_dim=shapes["clip.text_projection"][1],
        patch_size=shapes["clip.visual.conv1.weight"][-1],
        vision_layers=layout["layers"],
        vision_width=layout["vision_width"],
        vision_heads=layout["vision_width"] // HEAD_WIDTH,
        text_layers=layout["layers"],
        text_width=width,
        text_heads=width // HEAD_WIDTH,
        context_length=positions,
    )


@pytest.fixture(scope="session")
def clips(layout, vectors):
    """The inputs: frames, segments, masks, tokens, and the type of each clip."""
    import torch

    (batch, frames), segments = vectors["video_mask"].shape, vectors["audio_mask"].shape[1]
    video, audio, augmented = reference_checkpoints.inputs(layout["seed"], batch, frames, segments)
    return {
        "frames": torch.from_numpy(video),
        "audio": torch.from_numpy(audio),
        "augmented": torch.from_numpy(augmented),
        "tokens": torch.from_numpy(vectors["ids"]),
        "token_mask": torch.from_numpy(vectors["text_mask"]).bool(),
        "frame_mask": torch.from_numpy(vectors["video_mask"]).bool(),
        "audio_mask": torch.from_numpy(vectors["audio_mask"]).bool(),
        "type": torch.tensor([TYPES[i % len(TYPES)] for i in range(batch)]),
    }


@pytest.fixture(scope="session")
def pretrained(sizes, released_file):
    """The checkpoint of pre-training."""
    from clip4vla.models.clip4vla.model import CLIP4VLA
    from clip4vla.models.clip4vla.weights import load_into

    model = CLIP4VLA(sizes).eval()
    load_into(model, released_file("pretrain"))
    return model


@pytest.fixture(scope="session")
def pooled(pretrained, clips):
    """Pooled vectors of the pre-training checkpoint, one type token per clip."""
    import torch

    from clip4vla.models.common.pooling import normalise, pool

    with torch.inference_mode():
        vision = pretrained.encode_vision(clips["frames"], clips["frame_mask"])
        audio = pretrained.encode_audio(clips["audio"], clips["audio_mask"], clips["type"])
        return {
            "text": normalise(pretrained.encode_text(clips["tokens"])[1]),
            "vision": pool(vision, clips["frame_mask"]),
            "audio": pool(audio, clips["audio_mask"]),
        }

"""The reference vectors on a GPU: in float32 as near as on the CPU, in half precision near."""

import copy

import pytest
import torch
from torch.nn.functional import cosine_similarity

from clip4vla.common.device import autocast, to_device

pytestmark = pytest.mark.gpu
KEYS = ["text", "vision", "audio_per_sample_2"]


@pytest.fixture(scope="module")
def towers(gpu, pretrained, clips):
    """Outputs of the three towers, by the key of the reference."""
    model, clips = copy.deepcopy(pretrained).to(gpu), to_device(clips, gpu)
    frames, segments = (torch.ones_like(clips[name]) for name in ("frame_mask", "audio_mask"))

    def encoded():
        with torch.inference_mode():
            return {
                "text": model.encode_text(clips["tokens"])[0].float().cpu(),
                "vision": model.encode_vision(clips["frames"], frames).float().cpu(),
                "audio_per_sample_2": model.encode_audio(clips["audio"], segments, clips["type"])
                .float()
                .cpu(),
            }

    return encoded


@pytest.mark.parametrize("key", KEYS)
def test_float32(towers, vectors, key):
    assert (towers()[key] - torch.from_numpy(vectors[key])).abs().max() < 2e-4


@pytest.mark.parametrize("key", KEYS)
def test_half_precision(gpu, towers, vectors, key):
    with autocast(gpu):
        found = towers()[key]
    assert cosine_similarity(found, torch.from_numpy(vectors[key]).float(), dim=-1).min() > 0.999

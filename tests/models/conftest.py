import pytest
import torch

from clip4vla.config.sections import Inputs
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model

TINY = Model(architecture="tiny", weights=None)
SMALL = Inputs(max_frames=3, max_segments=3, max_words=8)


@pytest.fixture(scope="session")
def tiny():
    """A tiny random model with a caption generator, in evaluation mode. Never changed by a test."""
    return build_model(TINY, {}, "captioning", seed=3, inputs=SMALL).eval()


@pytest.fixture(scope="session")
def clips():
    """Four clips: frames, segments, masks with holes, tokens with their ends."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.full((4, 8), 49410)
    for row, words in enumerate([2, 6, 1, 4]):
        ids = torch.randint(1, 49000, (words,), generator=generator)
        tokens[row, : words + 2] = torch.tensor([49406, *ids.tolist(), 49407])
    return {
        "frames": torch.randn(4, 3, 3, 224, 224, generator=generator),
        "frame_mask": torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool(),
        "audio": torch.randn(4, 3, 3, 224, 224, generator=generator),
        "audio_mask": torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]]).bool(),
        "share": torch.tensor([0.0, 1.0, 0.5, 0.3]),
        "tokens": tokens,
    }

import pytest
import torch

from clip4vla.models.coavt.query_encoder import QueryEncoder
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.common.encoded import FeatureSequence

SIZES = Sizes(
    width=24,
    heads=2,
    own_layers=1,
    query_width=32,
    query_layers=3,
    query_heads=4,
    query_ffn=48,
    vocabulary=60,
    joint_width=16,
    text_positions=12,
    queries=5,
)


@pytest.fixture(scope="session")
def sizes():
    return SIZES


@pytest.fixture(scope="module")
def encoder():
    """A query encoder with weights large enough that everything matters, in float64."""
    torch.manual_seed(0)
    model = QueryEncoder(SIZES, dropout=0.1).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def clip():
    """Three clips of 7, 4 and 1 valid tokens."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 7, SIZES.width, generator=generator, dtype=torch.float64)
    return FeatureSequence(features, torch.arange(7) < torch.tensor([7, 4, 1])[:, None])


@pytest.fixture(scope="module")
def texts():
    """Three texts of 6, 3 and 4 tokens, and the mask of the valid ones."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, SIZES.vocabulary, (3, 6), generator=generator)
    return tokens, torch.arange(6) < torch.tensor([6, 3, 4])[:, None]

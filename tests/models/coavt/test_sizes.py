import pytest

from clip4vla.common.errors import UserError
from clip4vla.models.coavt.sizes import sizes_of


def test_base_has_the_sizes_of_vit_b_16():
    sizes = sizes_of("base", vocabulary=30523)
    assert (sizes.own_layers, sizes.shared_layers) == (11, 1)
    assert (sizes.audio_grid, sizes.image_grid) == ((8, 64), (14, 14))


def test_shared_layers_are_some_of_all():
    sizes = sizes_of("base_32", vocabulary=30523, shared_layers=3, queries=8)
    assert (sizes.own_layers, sizes.shared_layers, sizes.queries) == (9, 3, 8)
    assert (sizes.audio_grid, sizes.image_grid) == ((4, 32), (7, 7))


def test_a_modality_keeps_a_block_of_its_own():
    with pytest.raises(UserError, match="model.shared_layers: 3 leaves tiny no block.*at most 2"):
        sizes_of("tiny", vocabulary=100, shared_layers=3)

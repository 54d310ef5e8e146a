import pytest
import torch

from clip4vla.common.errors import UserError
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.model import CLIP4VLA


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_of_vit_b_32_are_those_of_the_released_model():
    """Facts 12.2: parameters and tensors, counted without allocating any."""
    with torch.device("meta"):
        model = CLIP4VLA(resolve("ViT-B-32"))
        assert size(model.audio) == 87_851_520
        assert size(model) == 239_130_369
        assert len(list(model.named_parameters())) == 455
        model.add_captioner(layers=4, max_words=32, max_frames=12)
        assert size(model) == 252_093_956  # the tied embedding counts once
        model.captioner = None
        model.add_fusion(layers=4, max_words=32, max_frames=12)
        assert size(model) == 251_781_378
        model.fusion = None
        model.add_fusion(4, 32, 12, joint="bert")
        assert size(model.fusion.joint) == 17_335_296  # 256.47 M in all
        assert size(model) == 239_130_369 + 17_335_296 + 513


def test_size_of_the_esc50_probe():
    with torch.device("meta"):
        model = CLIP4VLA(resolve("ViT-B-32"))
        model.add_probe(50)
    assert size(model.probe) == 26_674


@pytest.mark.parametrize("name", ["ViT-B32", "tinny"])
def test_an_unknown_name_is_told_its_neighbours(name):
    with pytest.raises(UserError, match="Fix: choose one like .*(ViT-B-32|tiny)") as error:
        resolve(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["RN50", "ViT-L-14-336", "convnext_base", "roberta-ViT-B-32"])
def test_other_families_are_refused(name):
    with pytest.raises(UserError, match="not a plain CLIP"):
        resolve(name)


def test_captioning_needs_a_text_tower_as_wide_as_the_shared_space():
    with torch.device("meta"):
        model = CLIP4VLA(resolve("ViT-B-32"))
        object.__setattr__(model.sizes, "embed_dim", 256)
        with pytest.raises(UserError, match="must equal embed_dim"):
            model.add_captioner(4, 32, 12)

"""Which parameters learn (facts 3.4): counts at ViT-B/32, CLIP4Clip's rule, prefixes of names."""

import pytest
import torch

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Freeze
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.model import CLIP4VLA, set_trainable
from clip4vla.models.common.parts import learning_parts

AUDIO, CLIP = 87_851_520, 151_278_848  # CLIP with three more words, without its logit_scale
LAST = 512 * 512 + 2 * 512 + 768 * 512  # text_projection, ln_final, vision.proj
TEXT_BLOCK, VISION_BLOCK = 3_152_384, 7_087_872


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return CLIP4VLA(resolve("ViT-B-32"))


@pytest.mark.parametrize(
    ("what", "given", "expected"),
    [
        ("audio", {}, AUDIO),  # stage 1, and the released freeze_layer_num 13
        ("all", {}, AUDIO + CLIP),  # released freeze_layer_num -1
        ("all", {"temperature": "learnable"}, AUDIO + CLIP + 1),
        ("head", {}, 0),
        ("all", {"freeze": Freeze(layer_num=12)}, AUDIO + LAST),
        ("all", {"freeze": Freeze(layer_num=9)}, AUDIO + LAST + 3 * (TEXT_BLOCK + VISION_BLOCK)),
        ("all", {"freeze": Freeze(layer_num=0)}, AUDIO + LAST + 12 * (TEXT_BLOCK + VISION_BLOCK)),
        ("all", {"freeze": Freeze(prefixes=["text", "vision"])}, AUDIO),
        ("all", {"freeze": Freeze(layer_num=12, prefixes=["audio."])}, LAST),
        ("audio", {"freeze": Freeze(prefixes=["audio.transformer"])}, AUDIO - 12 * VISION_BLOCK),
    ],
)
def test_counts_at_full_size(full_size, what, given, expected):
    set_trainable(full_size, what, **given)
    assert sum(p.numel() for p in full_size.parameters() if p.requires_grad) == expected


def test_facts_name_the_whole_model_with_its_scale():
    assert AUDIO + CLIP + 1 == 239_130_369


@pytest.fixture
def tiny():
    model = CLIP4VLA(resolve("tiny"))
    model.add_captioner(1, 8, 3)
    return model


def learning(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_rule_keeps_late_blocks_and_what_follows_them(tiny):
    set_trainable(tiny, "all", Freeze(layer_num=1))
    clip = {n for n in learning(tiny) if n.startswith(("text.", "vision."))}
    rest = {n for n in clip if ".resblocks." not in n}
    assert rest == {
        "text.ln_final.weight", "text.ln_final.bias", "text.text_projection", "vision.proj"
    }  # fmt: skip
    assert clip - rest == {n for n, _ in tiny.named_parameters() if n in clip and "blocks.1." in n}
    assert learning_parts(tiny) == {"text", "vision", "audio", "captioner"}


def test_a_gradient_passes_only_from_the_first_block_that_learns(tiny):
    set_trainable(tiny, "all", Freeze(layer_num=1))
    tiny.encode_text(torch.full((1, 4), 49407))[1].sum().backward()
    reached = {n for n, p in tiny.named_parameters() if p.grad is not None}
    assert reached == {n for n in learning(tiny) if n.startswith("text.")}


def test_freezing_is_not_kept_from_call_to_call(tiny):
    set_trainable(tiny, "all", Freeze(prefixes=["captioner."]))
    assert not any(n.startswith("captioner.") for n in learning(tiny))
    set_trainable(tiny, "all")
    assert learning_parts(tiny) == {"text", "vision", "audio", "captioner"}


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (
            Freeze(prefixes=["audio.conv2"]),
            "no parameter begins with 'audio.conv2'. Fix: begin with one of",
        ),
        (Freeze(prefixes=["fusion."]), "no parameter begins with 'fusion.'"),
        (Freeze(layer_num=3), "layer_num: 3, but CLIP's towers have 2 blocks"),
    ],
)
def test_what_freezes_nothing_is_refused(tiny, freeze, message):
    with pytest.raises(UserError, match=message) as caught:
        set_trainable(tiny, "all", freeze)
    assert "\n" not in str(caught.value)

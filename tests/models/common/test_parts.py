"""Parts of a model, by the names of its parameters."""

import pytest
from torch import nn

from clip4vla.models.common.parts import freezes_text_and_vision, learning_parts, parts_of


def model(*parts, frozen=(), apart=True):
    made = nn.ModuleDict({part: nn.Linear(2, 2) for part in parts})
    for part in frozen:
        made[part].requires_grad_(False)
    made.apart = apart
    return made


def test_parts_and_those_that_learn():
    found = model("text", "vision", "audio", frozen=["text"])
    assert parts_of(found) == {"text", "vision", "audio"}
    assert learning_parts(found) == {"vision", "audio"}


@pytest.mark.parametrize(
    ("parts", "frozen", "modalities", "expected"),
    [
        (("text", "vision", "audio"), ("text", "vision"), ("vision", "audio"), True),
        (("text", "vision", "audio"), ("text",), ("vision", "audio"), False),
        (("text", "vision", "audio"), ("text", "vision"), ("audio",), False),
        (("words", "joint"), (), ("vision",), False),  # a model without these parts
        (("words", "joint"), ("words",), ("vision",), False),
    ],
)
def test_vectors_are_cached_where_both_parts_exist_and_are_frozen(
    parts, frozen, modalities, expected
):
    assert freezes_text_and_vision(model(*parts, frozen=frozen), modalities) is expected


def test_none_are_cached_where_each_depends_on_the_other():
    joint = model("text", "vision", frozen=["text", "vision"], apart=False)
    assert not freezes_text_and_vision(joint, ["vision", "audio"])

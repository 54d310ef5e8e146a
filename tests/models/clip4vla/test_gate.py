import pytest
import torch

from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.gate import Gate
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.common.pooling import normalise
from clip4vla.models.common.similarity import similarities

KINDS = ["feat2feat", "feat2sim", "query2feat", "query2sim"]
SCALE = 100.0


@pytest.fixture(scope="module")
def given():
    """Texts [5, 16], vision and audio [3, 16]; the last clip is silent."""
    generator = torch.Generator().manual_seed(0)
    text, vision, audio = (normalise(torch.randn(n, 16, generator=generator)) for n in (5, 3, 3))
    audio[2] = 0.0
    return text, vision, audio


def gate(kind):
    made = Gate(kind, 16).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula(given, kind):
    """Facts 7.1, pair by pair, as the name says: features or similarities are weighed."""
    text, vision, audio = given
    made = gate(kind)
    with torch.inference_mode():
        ours = made(text, vision, audio, SCALE)["t_va"]
        for q in range(5):
            for n in range(3):
                source, target = kind.split("2")
                judged = text[q] if source == "query" else torch.cat([vision[n], audio[n]])
                seen, heard = (made.linear.weight @ judged + made.linear.bias).softmax(0)
                if target == "feat":
                    expected = SCALE * text[q] @ (seen * vision[n] + heard * audio[n])
                else:
                    expected = SCALE * (seen * (text[q] @ vision[n]) + heard * (text[q] @ audio[n]))
                assert ours[q, n] == pytest.approx(expected.item(), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_does_not_depend_on_the_others(given, kind):
    text, vision, audio = given
    made = gate(kind)
    with torch.inference_mode():
        whole = made(text, vision, audio, SCALE)["t_va"]
        part = made(text[[4]], vision[[2, 0]], audio[[2, 0]], SCALE)["t_va"]
    assert torch.allclose(part, whole[[4]][:, [2, 0]], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_modality_needs_no_weighing(given, kind):
    text, vision, audio = given
    assert gate(kind)(text, vision, None, SCALE).keys() == {"t_v"}
    sound = gate(kind)(text, None, audio, SCALE)
    assert sound.keys() == {"t_a"}
    assert torch.equal(sound["t_a"], similarities(text, None, audio, SCALE)["t_a"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_clip(given, kind):
    """Where the audio is said to be missing, vision alone decides; else it counts as zero."""
    text, vision, audio = given
    made = gate(kind)
    with torch.inference_mode():
        told = made(text, vision, audio, SCALE, torch.tensor([True, True, False]))
        released = made(text, vision, audio, SCALE)
    assert torch.equal(told["t_va"][:, 2], told["t_v"][:, 2])
    assert torch.equal(told["t_va"][:, :2], released["t_va"][:, :2])
    assert (released["t_va"][:, 2].abs() < released["t_v"][:, 2].abs()).all()


def test_even_weights_are_global_to_global(given):
    made = gate("query2sim")
    torch.nn.init.zeros_(made.linear.weight)
    torch.nn.init.zeros_(made.linear.bias)
    ours = made(*given, SCALE)["t_va"]
    assert torch.allclose(ours, similarities(*given, SCALE)["t_va"], atol=1e-4)


@pytest.mark.parametrize(("kind", "width"), [("feat2sim", 128), ("query2feat", 64)])
def test_a_gate_is_built_from_its_seed(kind, width):
    config = Model(architecture="tiny", weights=None, fusion=kind)
    one, two = (build_model(config, {}, "gate", seed=4).gate for _ in range(2))
    assert one.linear.weight.shape == (2, width)
    assert torch.equal(one.linear.weight, two.linear.weight)
    assert 0.01 < one.linear.weight.std() < 0.03
    assert not one.linear.bias.any()
    plain = build_model(config, {}, seed=4)
    assert plain.gate is None

import pytest
import torch

from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.model import CLIP4VLA, set_trainable
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.towers import AudioTower
from clip4vla.models.common.images import pixels

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize(("type_token", "length"), [("none", 50), ("single", 51), ("both", 52)])
def test_the_type_token_comes_last(type_token, length):
    """Facts 3.2: the lengths of the token sequence, and what stands at its end."""
    tower = AudioTower(resolve("tiny"), type_token)
    if type_token != "none":
        torch.nn.init.normal_(tower.control_embedding)
    tower.ln_pre = torch.nn.Identity()
    x = tower._embeds(torch.zeros(2, 3, 224, 224), torch.tensor([0.0, 0.25]))
    assert x.shape == (2, length, 64)
    last = tower.positional_embedding[-1]
    if type_token == "single":
        verbal, nonverbal = tower.control_embedding
        assert torch.allclose(x[0, -1], verbal + last)
        assert torch.allclose(x[1, -1], 0.75 * verbal + 0.25 * nonverbal + last)
    elif type_token == "both":
        assert torch.allclose(x[:, -2:], (tower.control_embedding + last).expand(2, -1, -1))


@pytest.mark.parametrize("modality", ["vision", "audio"])
def test_masked_positions_are_zero_and_never_encoded(tiny, clips, modality):
    def encode(change=0.0):
        if modality == "vision":
            mask = clips["frame_mask"]
            x = clips["frames"] + change * ~mask[..., None, None, None]
            return mask, tiny.encode_vision(x, mask)
        mask = clips["audio_mask"]
        x = clips["audio"] + change * ~mask[..., None, None, None]
        return mask, tiny.encode_audio(x, mask, clips["share"])

    with torch.inference_mode():
        mask, features = encode()
        assert torch.equal(features == 0, ~mask[..., None].expand_as(features))
        assert torch.equal(encode(change=7.0)[1], features)


@pytest.mark.parametrize("modality", ["vision", "audio"])
def test_a_clip_does_not_depend_on_its_batch(tiny, clips, modality):
    """Alone, in another order, and with more padding: the same features."""

    def encode(rows, padding=0):
        x, mask = (
            (clips["frames"], clips["frame_mask"])
            if modality == "vision"
            else (clips["audio"], clips["audio_mask"])
        )
        x = torch.nn.functional.pad(x[rows], (0, 0, 0, 0, 0, 0, 0, padding))
        mask = torch.nn.functional.pad(mask[rows], (0, padding))
        if modality == "vision":
            return tiny.encode_vision(x, mask)
        return tiny.encode_audio(x, mask, clips["share"][rows])

    with torch.inference_mode():
        together = encode([0, 1, 2, 3])
        assert torch.allclose(encode([3, 1, 0, 2]), together[[3, 1, 0, 2]], **CLOSE)
        for row in range(4):
            alone = encode([row], padding=2)[:, :3]
            assert torch.allclose(alone, together[[row]], **CLOSE)


def test_text_does_not_depend_on_its_padding(tiny, clips):
    tokens = clips["tokens"]
    with torch.inference_mode():
        features, end = tiny.encode_text(tokens)
        for row in tokens:
            words = row[: row.tolist().index(49407) + 1][None]
            short, alone = tiny.encode_text(words)
            index = tokens.tolist().index(row.tolist())
            assert torch.allclose(short, features[[index], : words.shape[1]], **CLOSE)
            assert torch.allclose(alone, end[[index]], **CLOSE)
            assert torch.equal(alone, short[:, -1])


def test_text_without_an_end_token_has_no_clip_feature(tiny):
    _, end = tiny.encode_text(torch.tensor([[49406, 320], [49406, 49407]]))
    assert end[0].eq(0).all() and end[1].ne(0).any()


def test_the_background_token_is_one_for_all_clips(clips):
    """Facts 3.2: class, patches, background: 51 tokens, 51 positions, whatever the clip's type."""
    audio = build_model(
        Model(architecture="tiny", weights=None, type_token="background"), {}, seed=3
    ).audio.eval()
    names = {name for name, _ in audio.named_parameters()}
    assert "background_embedding" in names and "control_embedding" not in names
    segments = clips["audio"].flatten(0, 1)[:2]
    with torch.inference_mode():
        tokens = audio._embeds(segments, torch.zeros(2))
        assert tokens.shape == (2, 51, 64)
        expected = audio.ln_pre(audio.background_embedding + audio.positional_embedding[-1])
        assert torch.allclose(tokens[:, -1], expected.expand(2, -1), **CLOSE)
        same = audio(segments, torch.zeros(2)), audio(segments, torch.ones(2))
    assert torch.equal(*same)


def test_a_batch_without_sound_reaches_every_audio_parameter(clips):
    """Distributed training waits for a gradient of each parameter, even one of zero."""
    model = CLIP4VLA(resolve("tiny"))
    silent = torch.zeros_like(clips["audio_mask"])
    features = model.encode_audio(clips["audio"], silent, clips["share"])
    features.sum().backward()
    assert features.eq(0).all()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in model.audio.parameters())


def test_bytes_are_normalised_as_clip_does(tiny):
    image = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8)
    torch.testing.assert_close(tiny.vision(image), tiny.vision(pixels(image)))


def test_one_channel_of_sound_stands_for_three_equal_ones(tiny):
    segments = torch.randn(2, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    share = torch.tensor([0.0, 1.0])
    three = tiny.audio(segments.expand(-1, 3, -1, -1).contiguous(), share)
    torch.testing.assert_close(tiny.audio(segments, share), three)


def test_towers_run_under_autocast(tiny, clips):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        audio = tiny.encode_audio(clips["audio"], clips["audio_mask"], clips["share"])
        _, end = tiny.encode_text(clips["tokens"])
    with torch.inference_mode():
        exact = tiny.encode_audio(clips["audio"], clips["audio_mask"], clips["share"])
    assert torch.allclose(audio.float(), exact, atol=0.05 * exact.abs().max())
    assert end.isfinite().all()


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("audio", {"audio", "captioner"}),
        ("all", {"text", "vision", "audio", "captioner"}),
        ("head", {"captioner"}),
    ],
)
def test_what_learns(what, parts):
    """Facts 3.4: stage 1 freezes all of CLIP. The scale never learns (D9)."""
    model = CLIP4VLA(resolve("tiny"))
    model.add_captioner(1, 8, 3)
    set_trainable(model, what)
    learning = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    frozen = {n.split(".")[0] for n, p in model.named_parameters() if not p.requires_grad}
    assert learning == parts and not learning & frozen

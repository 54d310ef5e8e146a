"""Properties of the joint audio-visual encoder (facts 1.3, 8.1)."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm

from clip4vla.models.coavt.encoder import AudioStack, SharedBlocks, VisualStack
from clip4vla.models.coavt.initialise_encoder import initialise_encoder
from clip4vla.models.coavt.sizes import sizes_of
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.images import IMAGE_STATISTICS
from clip4vla.training.switches import compile_blocks

SIZES = sizes_of("tiny", vocabulary=1, image=64, bands=64, steps=96)  # 2 x 2, 2 x 3 patches
N_AUDIO, N_PICTURE = 6, 4
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class Encoder(nn.Module):
    def __init__(self, sizes=SIZES, missing="average", activation="gelu", input_norm=False):
        super().__init__()
        settings = {"activation": activation, "input_norm": input_norm}
        self.audio = AudioStack(sizes, **settings)
        self.vision = VisualStack(sizes, **settings, statistics=IMAGE_STATISTICS["clip"])
        self.shared = SharedBlocks(sizes, activation, missing)
        initialise_encoder(dict(self.named_children()), seed=1)
        generator = torch.Generator().manual_seed(2)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):  # norms of the streams differ
                nn.init.normal_(module.weight, 1.0, 0.2, generator=generator)
                nn.init.normal_(module.bias, 0.0, 0.2, generator=generator)

    def own(self, clips):
        return {
            "audio": self.audio(clips["audio"], clips["audio_mask"]),
            "vision": self.vision(clips["frames"], clips["frame_mask"]),
        }

    def forward(self, clips, **kwargs):
        return self.shared(self.own(clips), **kwargs)


@pytest.fixture(scope="module")
def encoder():
    return Encoder().eval()


@pytest.fixture(scope="module")
def clips():
    """Whole; without the second frame; without sound; without pictures; empty."""
    generator = torch.Generator().manual_seed(5)
    return {
        "audio": torch.randn(5, 1, 1, 96, 64, generator=generator),
        "audio_mask": torch.tensor([1, 1, 0, 1, 0])[:, None].bool(),
        "frames": torch.randn(5, 2, 3, 64, 64, generator=generator),
        "frame_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0], [0, 0]]).bool(),
    }


def of(clips, rows):
    return {name: x[rows] for name, x in clips.items()}


def test_shapes_and_masks(encoder, clips):
    streams = encoder(clips)
    audio, vision = clips["audio_mask"], clips["frame_mask"].repeat_interleave(N_PICTURE, dim=1)
    masks = {"audio": audio.expand(-1, N_AUDIO), "vision": vision}
    masks["av"] = torch.cat([masks["audio"], vision], dim=1)
    for name, (tokens, mask) in streams.items():
        assert mask.equal(masks[name])
        assert tokens.shape == (*mask.shape, SIZES.width)
        assert tokens[~mask].eq(0).all() and tokens[mask].abs().sum(dim=-1).gt(0).all()


def test_a_stream_of_one_modality_does_not_move_with_the_other(encoder, clips):
    changed = clips | {"frames": clips["frames"] + 1}
    before, after = encoder(clips), encoder(changed)
    assert torch.equal(before["audio"].features, after["audio"].features)
    assert not torch.allclose(before["av"].features[0, 0], after["av"].features[0, 0])


@pytest.mark.parametrize("row", range(5))
def test_a_clip_does_not_depend_on_its_batch(encoder, clips, row):
    """Nor on padding: a masked frame is not read, whatever is in it."""
    whole, alone = encoder(clips), encoder(of(clips, [row]))
    noisy = encoder(
        clips | {"frames": clips["frames"] + ~clips["frame_mask"][..., None, None, None]}
    )
    for name, (tokens, _) in alone.items():
        torch.testing.assert_close(tokens[0], whole[name].features[row], **CLOSE)
        torch.testing.assert_close(noisy[name].features[row], whole[name].features[row], **CLOSE)


def test_frames_stand_one_after_the_other(encoder, clips):
    tokens = encoder.own(clips)["vision"].features
    second = encoder.vision(clips["frames"][:, 1:], clips["frame_mask"][:, 1:]).features
    torch.testing.assert_close(tokens[:, N_PICTURE:], second, **CLOSE)


def test_patches_of_sound_are_rows_of_mel_bands(encoder):
    """Index = mel row * columns + time column (facts 8.1)."""

    def changed(steps, bands):
        audio = torch.zeros(2, 1, 1, 96, 64)
        audio[1, :, :, steps, bands] = 1.0
        rest, tokens = encoder.audio.embed(audio[:, 0].transpose(-1, -2))
        return (tokens - rest).abs().sum(dim=-1).nonzero().flatten().tolist()

    assert changed(slice(0, 32), slice(32, 64)) == [3]
    assert changed(slice(64, 96), slice(0, 32)) == [2]


def test_bytes_of_pictures_are_normalised_inside(encoder):
    frames = torch.randint(256, (1, 1, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in IMAGE_STATISTICS["clip"])
    present = torch.ones(1, 1, dtype=torch.bool)
    found, expected = (
        encoder.vision(x, present).features for x in (frames, (frames / 255 - mean) / std)
    )
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(("row", "modality"), [(2, "vision"), (3, "audio")])
@pytest.mark.parametrize("missing", ["average", "stream"])
@pytest.mark.parametrize("grad", [True, False])
def test_a_clip_with_one_modality(clips, row, modality, missing, grad):
    """Facts 4.2, in a mixed batch, with and without the other streams computed."""
    encoder = Encoder(missing=missing).eval()
    with torch.set_grad_enabled(grad):
        own = encoder.own(clips)
        alone = FeatureSequence(*(x[row : row + 1] for x in own[modality]))
        expected = encoder.shared.stream(alone, modality).features
        if missing == "average":
            expected = (expected + encoder.shared.stream(alone, "av").features) / 2
        for streams in (("av",), ("audio", "vision", "av")):
            tokens, mask = encoder.shared(own, streams=streams)["av"]
            found = tokens[row][mask[row]]
            torch.testing.assert_close(found, expected[0][alone.mask[0]], **CLOSE)
            whole = encoder.shared.stream(
                FeatureSequence(*(torch.cat(x, 1)[:1] for x in zip(*own.values(), strict=True))),
                "av",
            )
            torch.testing.assert_close(tokens[0], whole.features[0], **CLOSE)


def test_only_the_streams_that_are_asked_for(encoder, clips):
    own = encoder.own(clips)
    assert list(encoder.shared(own, streams=("av",))) == ["av"]
    assert list(encoder.shared({"audio": own["audio"]})) == ["audio"]


@pytest.mark.parametrize("audio", [True, False])
@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize("streams", [("av",), ("audio", "vision", "av")])
def test_every_parameter_gets_a_finite_gradient(clips, audio, frames, streams):
    """Also where no clip of a batch has sound, or pictures, or anything."""
    encoder = Encoder(input_norm=True)
    masks = {
        "audio_mask": clips["audio_mask"] & audio,
        "frame_mask": clips["frame_mask"] & frames,
    }
    found = encoder(clips | masks, streams=streams)
    sum(x.features.square().sum() for x in found.values()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_whole_clips_leave_norms_of_one_modality_alone(clips):
    """They are in the graph of E_AV, with a gradient of zero."""
    encoder = Encoder()
    encoder(of(clips, [0]), streams=("av",))["av"].features.square().sum().backward()
    norms = encoder.shared.norm
    assert norms["audio"].weight.grad.eq(0).all() and norms["av"].weight.grad.ne(0).any()


def test_recomputed_activations_give_the_same_gradients(clips):
    found = []
    for recompute in (False, True):
        encoder = Encoder()
        for stack in encoder.children():
            stack.grad_checkpointing = recompute
        sum(x.features.square().sum() for x in encoder(clips).values()).backward()
        found.append([p.grad for p in encoder.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_in_half_precision(encoder, clips):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        half = encoder(clips)
    exact = encoder(clips)
    for name, (tokens, _) in half.items():
        assert tokens.dtype is torch.bfloat16
        worst = 0.06 * exact[name].features.abs().max().item()
        torch.testing.assert_close(tokens.float(), exact[name].features, rtol=0, atol=worst)


@pytest.mark.gpu
def test_on_a_gpu(gpu, encoder, clips):
    """In float32, and in half precision."""
    moved, there = deepcopy(encoder).to(gpu), {name: x.to(gpu) for name, x in clips.items()}
    exact = encoder(clips)
    with torch.inference_mode():
        found = moved(there)
        with torch.autocast("cuda", torch.bfloat16):
            half = moved(there)
    for name, (tokens, _) in exact.items():
        torch.testing.assert_close(found[name].features.cpu(), tokens, rtol=1e-3, atol=1e-4)
        worst = 0.06 * tokens.abs().max().item()
        torch.testing.assert_close(half[name].features.float().cpu(), tokens, rtol=0, atol=worst)


def test_equal_seeds_give_equal_weights():
    one, other = (dict(Encoder().named_parameters()) for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    audio, vision = (one[f"{part}.blocks.0.mlp.fc1.weight"] for part in ("audio", "vision"))
    assert not torch.equal(audio, vision)


@pytest.mark.parametrize(("activation", "function"), [
    ("gelu", gelu), ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x))
])  # fmt: skip
def test_two_shared_blocks_are_chained(clips, activation, function):
    """Against the formulas in plain operations, with the norms of each stream."""
    encoder = Encoder(sizes_of("tiny", 1, 2, image=64, bands=64, steps=96), activation=activation)
    encoder = encoder.double().eval()
    own = encoder.own(
        {n: x.double() if x.is_floating_point() else x[:2] for n, x in of(clips, [0]).items()}
    )
    parameters = dict(encoder.shared.named_parameters())
    for stream, (found, _) in encoder.shared(own).items():
        x = (
            own[stream].features
            if stream in own
            else torch.cat([y.features for y in own.values()], 1)
        )

        def at(name, x):
            return x @ parameters[name + ".weight"].T + parameters[name + ".bias"]

        def norm(name, x):
            weight, bias = (parameters[f"{name}.{stream}.{end}"] for end in ("weight", "bias"))  # noqa: B023
            return layer_norm(x, x.shape[-1:], weight, bias, eps=1e-5)

        for block in ("blocks.0", "blocks.1"):
            heads = at(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).unflatten(
                -1, (3, SIZES.heads, -1)
            )
            query, key, value = heads.permute(2, 0, 3, 1, 4)
            shares = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
            x = x + at(f"{block}.attn.proj", (shares @ value).transpose(1, 2).flatten(2))
            x = x + at(
                f"{block}.mlp.fc2", function(at(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
            )
        torch.testing.assert_close(found, norm("norm", x))


def test_blocks_compile(clips):
    """Names of streams and missing masks are constants of the compiled code."""

    class Model(Encoder):
        def blocks(self):
            return [block for part in self.children() for block in part.blocks]

    plain, compiled = Model().eval(), Model().eval()
    compile_blocks(compiled, backend="eager")
    for name, (tokens, _) in compiled(clips).items():
        torch.testing.assert_close(tokens, plain(clips)[name].features, **CLOSE)

import copy

import pytest
import torch
from encoded_clips import encoded_clips

from clip4vla.config.sections import Decoding, Inputs
from clip4vla.config.yaml import undotted
from clip4vla.loading.tokens import END, START
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.decoder_steps import CachedSteps, UncachedSteps
from clip4vla.models.clip4vla.decoding import decode
from clip4vla.models.clip4vla.joint import JointInput, Kind
from clip4vla.models.clip4vla.presets import PRESETS
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.common.encoded import FeatureSequence, each

GREEDY = Decoding()
BEAM = Decoding(method="beam", beams=3, length_penalty=0.5)
RELEASED = Decoding(**undotted(PRESETS["released"])["decoding"])
WAYS = [GREEDY, BEAM]
NAMES = ["greedy", "beam"]


@pytest.fixture(scope="module")
def models():
    """Tiny captioners in both styles, made surer of their words, with an end now and then."""
    inputs = Inputs(max_frames=3, max_segments=3, max_words=8)
    made = {}
    for style in ("clip", "bert"):
        config = Model(architecture="tiny", weights=None, joint=style)
        model = build_model(config, {}, "captioning", seed=3, inputs=inputs).eval()
        with torch.no_grad():
            model.captioner.head.token_embedding.weight.mul_(20.0)
            model.captioner.head.bias[END] += {"clip": 13.0, "bert": 10.0}[style]
            if style == "bert":  # it starts so small that it hardly reads
                for block in model.captioner.joint.layers:
                    block.value.weight.mul_(20.0)
                    block.output.weight.mul_(20.0)
        made[style] = model
    return made


@pytest.fixture(scope="module")
def given(clips):
    """vision [4, 3, D], mask, audio [4, 3, D], mask: with padding, and one silent clip."""
    generator = torch.Generator().manual_seed(7)
    vision, audio = (torch.randn(4, 3, 64, generator=generator) for _ in range(2))
    return encoded_clips(vision, clips["frame_mask"], audio, clips["audio_mask"])


def write(model, given, decoding, rows=None, max_words=7):
    rows = list(range(4)) if rows is None else rows
    given = each(given, lambda x: x[rows])
    return decode(model, given, decoding, max_words)


def same(ours, theirs, tolerance=1e-4):
    assert [c.ids for c in ours] == [c.ids for c in theirs]
    assert [c.score for c in ours] == pytest.approx([c.score for c in theirs], abs=tolerance)


@pytest.mark.parametrize("style", ["clip", "bert"])
@pytest.mark.parametrize("decoding", WAYS, ids=NAMES)
def test_cached_equals_uncached(models, given, style, decoding):
    """The same words; the scores to the rounding of float32."""
    cached = write(models[style], given, decoding)
    uncached = decoding.model_copy(update={"cache": False})
    same(cached, write(models[style], given, uncached), 2e-5)
    assert any(caption.ids for caption in cached)


@pytest.mark.parametrize("style", ["clip", "bert"])
def test_cached_logits_are_exact(models, given, style):
    """In float64 the logits of every hypothesis agree to its rounding: nothing is left out.

    The hypotheses are shuffled at each step, as a beam search shuffles them, and one clip leaves.
    """
    model = copy.deepcopy(models[style]).double()
    given = each(given, lambda x: x.double() if x.is_floating_point() else x)
    steps = CachedSteps(model, given, 15), UncachedSteps(model, given, "fixed")
    generator = torch.Generator().manual_seed(1)
    tokens = torch.full((4, 3, 1), START)
    parents = torch.zeros(4, 3, dtype=torch.int64)
    for step in range(5):
        with torch.inference_mode():
            ours, theirs = (one.logits(tokens, parents) for one in steps)
        assert (ours - theirs).abs().max() < 1e-10
        if step == 2:
            kept = torch.tensor([0, 2, 3])
            for one in steps:
                one.select(kept)
            tokens = tokens[kept]
        parents = torch.randint(3, tokens.shape[:2], generator=generator)
        tokens = tokens.gather(1, parents[..., None].expand_as(tokens))
        newest = torch.randint(1, 49000, parents.shape, generator=generator)
        tokens = torch.cat([tokens, newest[..., None]], dim=-1)


@pytest.mark.parametrize("decoding", [*WAYS, RELEASED], ids=[*NAMES, "released"])
def test_a_caption_does_not_depend_on_its_batch(models, given, decoding):
    together = write(models["clip"], given, decoding)
    same(together, [write(models["clip"], given, decoding, [i])[0] for i in range(4)])
    same(together[::-1], write(models["clip"], given, decoding, [3, 2, 1, 0]))


@pytest.mark.parametrize("decoding", [BEAM, RELEASED], ids=["ours", "released"])
def test_a_caption_does_not_depend_on_padding(models, given, decoding):
    """What stands in masked positions is never read; audio's masked tail can be left away.

    (Vision's tail can, too, but with sliding positions audio would move.)
    """
    whole = write(models["clip"], given, decoding)
    vision, vision_mask, audio, audio_mask = *given["vision"], *given["audio"]
    noisy = {
        name: FeatureSequence(x + 100 * ~mask[..., None], mask) for name, (x, mask) in given.items()
    }
    same(write(models["clip"], noisy, decoding), whole)
    assert not audio_mask[3, 1:].any()
    alone = [vision[[3]], vision_mask[[3]], audio[[3], :1], audio_mask[[3], :1]]
    same(decode(models["clip"], encoded_clips(*alone), decoding, 7), whole[3:])


def test_a_masked_modality_is_the_same_as_none(models, given):
    audio, audio_mask = given["audio"]
    silent = given | {"audio": FeatureSequence(audio, torch.zeros_like(audio_mask))}
    for decoding in (BEAM, RELEASED):
        same(
            write(models["clip"], silent, decoding),
            write(models["clip"], {"vision": given["vision"]}, decoding),
        )
    unseen = write(models["clip"], {"audio": given["audio"]}, BEAM)
    assert [c.ids for c in unseen] != [c.ids for c in write(models["clip"], given, BEAM)]


def test_a_beam_of_one_is_greedy(models, given):
    model = models["clip"]
    same(write(model, given, Decoding(method="beam", beams=1)), write(model, given, GREEDY), 0.0)


def test_the_score_is_that_of_teacher_forcing(models, given):
    model = models["clip"]
    for index, caption in enumerate(write(model, given, BEAM)):
        ended = len(caption.ids) < 7
        tokens = torch.tensor([[START, *caption.ids, *([END] if ended else [])]])
        with torch.inference_mode():
            words = model.encode_text(tokens[:, :-1])[0], torch.ones_like(tokens[:, :-1]).bool()
            logits = model.captioner(*words, each(given, lambda x: x[[index]]))  # noqa: B023
        chosen = logits.log_softmax(-1).gather(2, tokens[:, 1:, None]).sum()
        length = tokens.shape[1] - 1
        assert caption.score == pytest.approx(chosen.item() / length**0.5, abs=1e-4)


def test_sliding_positions_follow_the_words(models, given):
    """Facts 8.3: a sequence of words, vision and audio without a gap, whatever the step."""
    model = models["clip"]
    vision, vision_mask, audio, audio_mask = *given["vision"], *given["audio"]
    sliding, fixed = (UncachedSteps(model, given, kind) for kind in ("sliding", "fixed"))
    tokens = torch.randint(1, 49000, (4, 1, 8), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for length in (2, 8):
            ours = sliding.logits(tokens[..., :length], None)[:, 0]
            features = model.encode_text(tokens[:, 0, :length])[0]
            parts = [
                JointInput(Kind.TEXT, features, torch.ones(4, length).bool(), length),
                JointInput(Kind.VISION, vision, vision_mask, 3),
                JointInput(Kind.AUDIO, audio, audio_mask, 3),
            ]
            attend = torch.ones(length + 6, length + 6).tril().bool()
            attend[:, length:] = True
            attend[length:, :length] = False
            by_hand = model.captioner.head(model.captioner.joint(parts, attend)[0][:, -1])
            assert torch.allclose(ours, by_hand, atol=1e-4)
            as_trained = fixed.logits(tokens[..., :length], None)[:, 0]
            assert torch.allclose(ours, as_trained, atol=1e-4) == (length == 8)


def test_decoding_runs_under_autocast(models, given):
    with torch.autocast("cpu", torch.bfloat16):
        assert len(write(models["clip"], given, BEAM)) == 4


def test_what_cannot_be_decoded_is_refused(models, given):
    model = models["clip"]
    with pytest.raises(ValueError, match="max_words is 9; the captioner has 1 to 8"):
        decode(model, given, BEAM, 9)
    with pytest.raises(ValueError, match="vision, audio or both"):
        decode(model, {}, BEAM, 7)

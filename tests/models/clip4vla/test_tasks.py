"""Losses of the tasks against the formulas, on a tiny model and a made batch."""

import pytest
import torch
from copies import waits_of
from encoded_clips import encoded_clips
from tiny_world import INPUTS, MODEL, finetune, pretrain
from torch.nn.functional import cross_entropy, log_softmax

from clip4vla.loading.tokenizer import tokenize
from clip4vla.loading.tokens import END, PAD, START
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.model import set_trainable
from clip4vla.models.clip4vla.objective import Objective
from clip4vla.models.clip4vla.tasks import CaptionTask, PretrainTask, RetrievalTask
from clip4vla.models.common.pooling import normalise, pool

WORDS = ["a dog", "two red cars", "rain"]


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)

    def images():
        return torch.randn(3, 2, 3, 224, 224, generator=generator)

    return {
        "clip_id": ["x", "y", "z"],
        "frames": images(),
        "frame_mask": torch.tensor([[1, 1], [1, 0], [1, 1]]).bool(),
        "audio": images(),
        "masked_audio": images(),
        "audio_mask": torch.tensor([[1, 1], [1, 1], [0, 0]]).bool(),
        "has_audio": torch.tensor([True, True, False]),
        "nonverbal_share": torch.tensor([0.0, 1.0, 0.5]),
        "tokens": tokenize(WORDS, INPUTS.max_words),
    }


@pytest.fixture(scope="module")
def model():
    return build_model(MODEL, {}, "captioning", seed=2, inputs=INPUTS).eval()


@pytest.fixture(scope="module")
def pooled(model, batch):
    with torch.no_grad():
        frames = model.encode_vision(batch["frames"], batch["frame_mask"])
        sound = batch["audio"], batch["audio_mask"], batch["nonverbal_share"]
        return (
            normalise(model.encode_text(batch["tokens"])[1]),
            pool(frames, batch["frame_mask"]),
            pool(model.encode_audio(*sound), batch["audio_mask"]),
        )


def test_both_views_of_the_sound_pass_the_tower_at_once(model, batch, monkeypatch):
    task, seen = PretrainTask(model, pretrain()), []
    encode = model.encode_audio

    def counted(audio, mask, share):
        seen.append(len(audio))
        return encode(audio, mask, share)

    monkeypatch.setattr(model, "encode_audio", counted)
    with torch.no_grad():
        found = task.encode(batch)
        for name in ("audio", "masked_audio"):
            features = encode(batch[name], batch["audio_mask"], batch["nonverbal_share"])
            torch.testing.assert_close(found[name], pool(features, batch["audio_mask"]))
    assert seen == [2 * len(batch["audio"])]


def diagonal(logits):
    return -log_softmax(logits, dim=1).diagonal().mean()


@pytest.mark.parametrize("modalities", [["vision"], ["audio"], ["vision", "audio"]])
@pytest.mark.parametrize("symmetric", [False, True])
def test_retrieval_contrasts_the_modalities_it_has(model, batch, pooled, modalities, symmetric):
    text, vision, audio = pooled
    t_v, t_a = 20 * text @ vision.T, 20 * text @ audio.T
    both = torch.where(batch["has_audio"], (t_v + t_a) / 2, t_v)  # the silent clip: vision alone
    logits = {("vision",): t_v, ("audio",): t_a, ("vision", "audio"): both}[tuple(modalities)]
    expected = diagonal(logits)
    if symmetric:
        expected = (expected + diagonal(logits.T)) / 2
    objective = Objective(scale=20.0, symmetric=symmetric)
    task = RetrievalTask(model, finetune(modalities=modalities, objective=objective))
    assert task.loss(batch)[0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("trainable", ["audio", "all"])
def test_pretraining_sums_its_terms_and_reaches_what_is_trainable(batch, trainable):
    model = build_model(MODEL, {}, seed=2)
    set_trainable(model, trainable)
    loss, terms = PretrainTask(model, pretrain(trainable=trainable)).loss(batch)
    expected = {"text_audio", "vision_audio", "audio_audio"}
    assert set(terms) == expected | ({"text_vision"} if trainable == "all" else set())
    assert loss.item() == pytest.approx(sum(term.item() for term in terms.values()), rel=1e-6)
    loss.backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == ({"audio"} if trainable == "audio" else {"audio", "text", "vision"})


@pytest.fixture(scope="module")
def parts(batch):
    """A model and what its pre-training compares."""
    model = build_model(MODEL, {}, seed=2)
    set_trainable(model, "all", temperature="learnable")
    with torch.no_grad():
        return model, PretrainTask(model, pretrain()).encode(batch)


def pretraining(parts, trainable="all", **objective):
    """Loss and terms as numbers."""
    model, features = parts
    run = pretrain(objective=Objective(**objective), trainable=trainable)
    loss, terms = PretrainTask(model, run).objective(features)
    return loss.item(), {name: term.item() for name, term in terms.items()}


def both_ways(x, y, scale=100.0):
    return ((diagonal(scale * x @ y.T) + diagonal(scale * y @ x.T)) / 2).item()


def test_the_released_second_stage_has_no_text_vision(parts):
    _, once = pretraining(parts)
    loss, terms = pretraining(parts, second_stage="released")
    assert terms == once
    expected = terms["text_audio"] + 2 * terms["vision_audio"] + terms["audio_audio"]
    assert loss == pytest.approx(expected, rel=1e-6)


def test_self_similarity_adds_two_terms(parts):
    loss, terms = pretraining(parts, self_similarity=True)
    for name, x in (("text_text", parts[1]["text"]), ("vision_vision", parts[1]["vision"])):
        assert terms[name] == pytest.approx(both_ways(x, x), rel=1e-5)
    assert loss == pytest.approx(sum(terms.values()), rel=1e-6)


def test_clips_of_one_name_are_positives_of_each_other(parts):
    model, features = parts
    alone = pretraining(parts, multi_positive=True)
    assert alone[0] == pytest.approx(pretraining(parts)[0], rel=1e-6)
    twice = {**features, "clip": features["clip"][[0, 0, 2]]}
    loss, terms = pretraining((model, twice), multi_positive=True)
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    logits = 100 * features["text"] @ features["audio"].T
    expected = -sum(log_softmax(m, dim=1)[same].mean() for m in (logits, logits.T)) / 2
    assert terms["text_audio"] == pytest.approx(expected.item(), rel=1e-5)
    assert terms["audio_audio"] == alone[1]["audio_audio"]
    assert pretraining((model, twice)) == pretraining(parts)


@pytest.mark.parametrize(("start", "scale"), [(20.0, 20.0), (100.0, 100.0), (130.0, 100.0)])
def test_a_learned_temperature_starts_at_clips_and_stays_below_its_limit(parts, start, scale):
    model = parts[0]
    with torch.no_grad():
        model.logit_scale.fill_(start).log_()
    loss, terms = pretraining(parts, temperature="learnable", intra=False)
    fixed, _ = pretraining(parts, scale=scale, intra=False)
    assert loss == pytest.approx(fixed, rel=1e-4)
    assert terms["scale"] == pytest.approx(scale, rel=1e-5)
    run = pretrain(objective=Objective(temperature="learnable"), trainable="all")
    PretrainTask(model, run).objective(parts[1])[0].backward()
    assert model.logit_scale.grad.abs() > 0  # at the limit too
    model.logit_scale.grad = None


def test_retrieval_knows_the_temperature_and_several_positives(model, batch, pooled):
    text, vision, _ = pooled
    set_trainable(model, "all", temperature="learnable")
    with torch.no_grad():
        model.logit_scale.fill_(20.0).log_()
    given = {"temperature": "learnable", "symmetric": False, "multi_positive": True}
    run = finetune(modalities=["vision"], objective=Objective(**given))
    loss, terms = RetrievalTask(model, run).loss({**batch, "clip_id": ["x", "y", "x"]})
    same = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()
    expected = -log_softmax(20 * text @ vision.T, dim=1)[same].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert terms["scale"].item() == pytest.approx(20.0)
    set_trainable(model, "all")


def caption_loss(model, batch, **given):
    with torch.no_grad():
        return CaptionTask(model, finetune("captioning", **given)).loss(batch)[0].item()


def test_captioning_predicts_the_next_token_and_ignores_pads(model, batch):
    tokens = batch["tokens"]
    with torch.no_grad():
        vision = model.encode_vision(batch["frames"], batch["frame_mask"])
        sound = batch["audio"], batch["audio_mask"], batch["nonverbal_share"]
        audio = model.encode_audio(*sound)
        total, count = 0.0, 0
        for row in range(3):  # one clip at a time, without any pad
            ids = tokens[row][tokens[row] != PAD]
            given = ids[None, :-1]
            features, _ = model.encode_text(given)
            alone = [x[row : row + 1] for x in (vision, batch["frame_mask"], audio, sound[1])]
            mask = torch.ones_like(given).bool()
            logits = model.captioner(features, mask, encoded_clips(*alone))[0]
            assert ids[-1] == END
            total += cross_entropy(logits, ids[1:], reduction="sum").item()
            count += len(ids) - 1
    assert caption_loss(model, batch) == pytest.approx(total / count, rel=1e-4)
    assert caption_loss(model, batch, pad_loss=True) != pytest.approx(total / count, rel=1e-3)


def test_a_step_waits_for_masks_alone(model, batch):
    """On a GPU: of frames, of sound and of what is predicted."""

    def step(task):
        return waits_of(lambda: task.loss(batch)[0].backward())

    pairs = finetune(objective=Objective(multi_positive=True))
    assert (
        step(RetrievalTask(model, pairs)) == step(CaptionTask(model, finetune("captioning"))) == 3
    )


def test_captioning_counts_its_targets(model, batch):
    words = [3, 4, 2]  # with the end: a dog; two red cars; rain
    assert CaptionTask(model, finetune("captioning")).targets(batch) == sum(words)
    padded = finetune("captioning", pad_loss=True)
    assert CaptionTask(model, padded).targets(batch) == 3 * (INPUTS.max_words - 1)


@pytest.mark.parametrize("max_words", [32, 48])
def test_a_released_caption_is_read_and_predicted_at_every_position(batch, monkeypatch, max_words):
    """facts 8.2, written out: start and words are read, words and end are predicted, pads count."""
    inputs = INPUTS.model_copy(update={"max_words": max_words, "extra_word": True})
    model = build_model(MODEL, {}, "captioning", seed=2, inputs=inputs).eval()
    texts = ["a dog", "red car " * 40, "dog " * (max_words - 1)]
    words = [[320, 1929], [736, 1615] * 40, [1929] * (max_words - 1)]
    read, wanted = [], []
    for ids in words:
        kept = ids[: max_words - 1]
        pads = [PAD] * (max_words - 1 - len(kept))
        read.append([START, *kept, *pads])
        wanted.append([*kept, END, *pads])
    long = batch | {"tokens": tokenize(texts, inputs.caption_tokens)}
    task = CaptionTask(model, finetune("captioning", inputs=inputs, pad_loss=True))
    assert task.targets(long) == 3 * max_words
    seen = []
    real = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda tokens: seen.append(tokens) or real(tokens))
    with torch.no_grad():
        found = task.loss(long)[0].item()
        assert seen[0].tolist() == read
        clip = model.encode_clips(long, ["vision", "audio"])
        tokens = torch.tensor(read)
        logits = model.captioner(real(tokens)[0], tokens != PAD, clip)
        expected = cross_entropy(logits.flatten(0, 1), torch.tensor(wanted).flatten()).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_captioning_reads_only_its_modalities(model, batch):
    noise = {**batch, "audio": torch.zeros_like(batch["audio"])}
    only = {"modalities": ["vision"]}
    assert caption_loss(model, noise, **only) == caption_loss(model, batch, **only)
    assert caption_loss(model, noise) != caption_loss(model, batch)

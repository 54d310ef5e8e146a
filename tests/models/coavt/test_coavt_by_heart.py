"""Eight clips with sound, picture and text are learned by heart."""

import pytest
import torch
from coavt_cases import BANDS, FAMILY, INPUTS, STEPS, build, objective, pretrain

from clip4vla.config.sections import Decoding, Modality, Optimiser
from clip4vla.training.optimiser import Updates

BOTH: list[Modality] = ["vision", "audio"]
TEXTS = ["a red dog barks", "rain on a roof", "two cars", "a man sings"]
TEXTS += ["wind blows", "a cat", "one bell", "birds in a tree"]
OWN = torch.arange(8)


def eight_clips(processor):
    """Clips of one colour and of one spectrum, each with a text of its own."""
    generator = torch.Generator().manual_seed(3)
    colours = torch.randint(0, 256, (8, 1, 3, 1, 1), generator=generator, dtype=torch.uint8)
    spectra = torch.randn(8, 1, 1, 1, BANDS, generator=generator)
    everywhere = torch.ones(8, 1, dtype=torch.bool)
    return {
        "clip_id": list("abcdefgh"),
        "frames": colours.expand(-1, -1, -1, 224, 224).contiguous(),
        "frame_mask": everywhere,
        "audio": spectra.expand(-1, -1, -1, STEPS, -1).contiguous(),
        "audio_mask": everywhere,
        "tokens": processor.tokenize(TEXTS, INPUTS.max_words),
    }


def learned(steps, **given):
    """Return the model after some steps, the clips, and features that keep what rescoring reads."""
    run = pretrain(
        objective=objective(**given),
        optimiser=Optimiser(lr=1e-3, head_lr=1e-3, weight_decay=0.0, batch_size=8),
    )
    model = build(seed=0, dropout=0.0).train()
    FAMILY.prepare(model, run)
    task, batch = FAMILY.task(model, run), eight_clips(model.processor)
    update = Updates(model, run.optimiser, steps, task.heads)
    for step in range(steps):
        task.loss(batch)[0].backward()
        update(step)
    scorer = FAMILY.scorer(model.eval(), run.model, BOTH, rescores=True)
    with torch.no_grad():
        own = model.encode_clips(batch, BOTH)
        features = scorer.text_features(batch["tokens"]), scorer.clip_features(own)
    return model, own, scorer, features


def test_texts_find_their_clips_by_each_stream():
    _, _, scorer, features = learned(150, language=0, matching=0)
    scores = scorer.scores(*features, scale=1.0)
    for name in ("t_va", "t_v", "t_a"):
        assert scores[name].argmax(dim=1).equal(OWN), name
    assert scores["t_va"].argmax(dim=0).equal(OWN)


@pytest.mark.slow
def test_pairs_are_told_apart_and_words_written():
    model, own, scorer, features = learned(600, audio_text=0, visual_text=0)
    pairs = torch.cartesian_prod(OWN, OWN)
    with torch.no_grad():
        again = scorer.rescored(*features, pairs).view(8, 8)
        written = model.write_captions(own, Decoding(), INPUTS.max_words)
    assert (again.argmax(dim=0) == OWN).sum() >= 7 and (again.argmax(dim=1) == OWN).sum() >= 6
    assert (again.diagonal() > 0).all()
    words = [model.processor.words(ids) for ids in written]
    assert sum(one == text for one, text in zip(words, TEXTS, strict=True)) >= 6

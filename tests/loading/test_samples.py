import numpy as np
import pytest
import torch
from features_fakes import CLIPS

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Inputs, Masking
from clip4vla.loading.collate import collate
from clip4vla.loading.samples import ClipSamples
from clip4vla.loading.tokenizer import tokenize

INPUTS = Inputs(max_frames=3, max_segments=4, max_words=8)
ITEMS = [(clip_id, f"about {clip_id[:5]}", ("label",)) for clip_id in sorted(CLIPS)]
AT = {item[0]: position for position, item in enumerate(ITEMS)}
SILENT = AT["charlie"]


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key]


def alone(samples, index):
    """A batch of one."""
    return collate([samples[index]])


def test_shapes_and_values(cache):
    batch = collate([sample for sample in ClipSamples(cache, ITEMS, INPUTS, 0.25)])
    count = len(ITEMS)
    assert batch["clip_id"] == sorted(CLIPS)
    assert batch["frames"].shape == (count, 3, 3, 224, 224)
    assert batch["frame_mask"].sum(1).tolist() == [2, 3, 3, 1, 3, 1]
    assert batch["audio"].shape == (count, 4, 3, 224, 224)
    assert batch["audio_mask"].sum(1).tolist() == [2, 3, 0, 1, 4, 1]
    assert batch["has_audio"].tolist() == [True, True, False, True, True, True]
    assert batch["nonverbal_share"].tolist() == [0.25] * count
    assert batch["nonverbal_share"].dtype == torch.float32
    assert torch.equal(batch["tokens"], tokenize([item[1] for item in ITEMS], 8))
    assert batch["caption"][0] == "about alpha" and batch["labels"] == [("label",)] * count
    assert "masked_audio" not in batch
    assert bool((batch["audio"][~batch["audio_mask"]] == 0).all())
    assert bool((batch["frames"][~batch["frame_mask"]] == 0).all())


def test_a_released_caption_keeps_one_more_word(cache):
    items = [(clip_id, "dog " * 20, "") for clip_id in sorted(CLIPS)]
    longer = INPUTS.model_copy(update={"extra_word": True})
    for inputs, words in ((INPUTS, 6), (longer, 7)):
        batch = collate([sample for sample in ClipSamples(cache, items, inputs, 0.5)])
        assert (batch["tokens"] == tokenize(["dog"], 3)[0, 1]).sum(1).tolist() == [words] * len(
            items
        )
        assert batch["tokens"].shape[1] == inputs.caption_tokens == words + 2


def test_batching_never_changes_a_clip(cache):
    samples = ClipSamples(cache, ITEMS, INPUTS, 0.5, masking=Masking())
    batch = collate([samples[index] for index in range(len(samples))])
    for index in range(len(samples)):
        one = alone(samples, index)
        for key, mask in (
            ("frames", "frame_mask"),
            ("audio", "audio_mask"),
            ("masked_audio", "audio_mask"),
        ):
            assert one[key].shape[1] >= 1
            kept = batch[key][index][
                batch[mask][index]
            ]  # mono clips have three equal channels here
            assert torch.equal(kept, one[key][0][one[mask][0]].expand_as(kept))
            assert int(batch[mask][index].sum()) == int(one[mask].sum())


def test_masks_depend_on_seed_epoch_and_clip_only(cache):
    def masked(seed=0, epoch=0, items=ITEMS, clip_id="bravo"):
        samples = ClipSamples(cache, items, INPUTS, 0.5, masking=Masking(), seed=seed)
        samples.set_epoch(epoch)
        batch = alone(samples, [item[0] for item in items].index(clip_id))
        return batch["audio"], batch["masked_audio"]

    audio, base = masked()
    assert not torch.equal(audio, base)
    assert torch.equal(base, masked(items=ITEMS[::-1])[1])
    assert torch.equal(audio, masked(epoch=1)[0])
    assert not torch.equal(base, masked(epoch=1)[1])
    assert not torch.equal(base, masked(seed=1)[1])


def test_silent_without_audio(cache):
    batch = alone(ClipSamples(cache, ITEMS, INPUTS, 0.5), SILENT)
    assert batch["audio"].shape == (1, 1, 1, 224, 224)
    assert not batch["audio"].any() and not batch["audio_mask"].any()
    assert batch["has_audio"].tolist() == [False]


def test_silent_as_zeros(cache):
    samples = ClipSamples(cache, ITEMS, INPUTS, 0.5, missing="zeros", masking=Masking())
    batch = collate([samples[SILENT], samples[0]])
    assert batch["has_audio"].tolist() == [True, True]
    assert batch["audio_mask"].tolist() == [[False, False], [True, True]]
    assert not batch["audio"][0].any() and not batch["masked_audio"][0].any()


@pytest.mark.parametrize("missing", ["substitute", "zeros", "none", "random"])
def test_silent_with_a_donor(cache, missing):
    samples = ClipSamples(cache, ITEMS, INPUTS, 0.5, {"charlie": "bravo"}, missing)
    donor, given = alone(samples, AT["bravo"]), alone(samples, SILENT)
    assert torch.equal(given["audio"], donor["audio"]) and bool(given["has_audio"])
    assert not torch.equal(given["frames"], donor["frames"])
    # a clip that has sound keeps its own, whatever the table says
    own = alone(ClipSamples(cache, ITEMS, INPUTS, 0.5, {"alpha": "bravo"}), 0)
    same(own, alone(ClipSamples(cache, ITEMS, INPUTS, 0.5), 0))


def test_filtered(cache):
    samples = ClipSamples(cache, ITEMS, INPUTS, 0.5, missing="filter")
    assert [item[0] for item in samples.items] == sorted(set(CLIPS) - {"charlie"})
    assert len(samples) == len(ITEMS) - 1


@pytest.mark.parametrize(
    ("donors", "message"),
    [({}, "clip charlie: silent and without a donor"), ({"charlie": "nobody"}, "donor nobody")],
)
@pytest.mark.parametrize("missing", ["substitute", "random"])
def test_bad_donors_are_named(cache, donors, message, missing):
    with pytest.raises(UserError, match=message):
        ClipSamples(cache, ITEMS, INPUTS, 0.5, donors, missing)


def test_unknown_clip_is_named(cache):
    with pytest.raises(UserError, match=r"clip zulu: not in demo-v1-0a1b2c"):
        ClipSamples(cache, [("zulu", "", ())], INPUTS, 0.5)


STATISTICS = {"segment": {}, "clip": {}, "fixed": {"log_mel_mean": -40.0, "log_mel_std": 20.0}}


@pytest.mark.parametrize("place", [(0, 0, 0), (0, 5, 5), (0, -1, -1)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("standardisation", STATISTICS)
def test_a_log_mel_that_is_not_finite_is_named(cache, monkeypatch, standardisation, value, place):
    given = STATISTICS[standardisation] | {"standardisation": standardisation}
    samples = ClipSamples(cache, ITEMS, Inputs(**given), 0.5)
    bad = cache.read_log_mel("alpha").clone()
    assert samples[0].clip_id == "alpha" and alone(samples, 0)["audio"].isfinite().all()
    bad[place] = value
    monkeypatch.setattr(cache, "read_log_mel", lambda *_: bad)
    for raw in (False, True):
        with pytest.raises(UserError, match="clip alpha: its log-mel holds NaN"):
            collate([samples[0]], raw_sound=raw)


def test_a_broken_frame_is_named(cache, monkeypatch):
    samples = ClipSamples(cache, ITEMS, INPUTS, 0.5)
    raw = cache.read("alpha")
    cut = [raw.frames[0][:300]]
    monkeypatch.setattr(cache, "read_frames", lambda *_: cut)
    with pytest.raises(UserError, match="clip alpha: a frame is a truncated JPEG"):
        alone(samples, 0)


@pytest.mark.parametrize(("modality", "absent"), [("vision", "audio"), ("audio", "frame")])
def test_a_modality_that_nobody_reads_is_not_decoded(cache, monkeypatch, modality, absent):
    both = collate(list(ClipSamples(cache, ITEMS, INPUTS, 0.5)))
    reader = "read_log_mel" if modality == "vision" else "read_frames"
    monkeypatch.setattr(cache, reader, lambda *_: pytest.fail("it was read"))
    one = collate(list(ClipSamples(cache, ITEMS, INPUTS, 0.5, modalities=[modality])))
    assert not one[f"{absent}_mask"].any()
    key = "frames" if modality == "vision" else "audio"
    assert torch.equal(one[key], both[key])


def test_workers_change_nothing_and_see_the_next_epoch(cache):
    """One loader with workers that outlive the epoch."""
    samples = ClipSamples(
        cache, ITEMS[:3], Inputs(max_frames=1, max_segments=1), 0.5, masking=Masking()
    )
    loader = torch.utils.data.DataLoader(
        samples,
        batch_size=3,
        num_workers=1,
        collate_fn=collate,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    for epoch in (0, 1):
        samples.set_epoch(epoch)
        (batch,) = loader
        same(batch, collate([samples[index] for index in range(3)]))

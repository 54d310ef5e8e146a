"""Donors: nearest neighbours against brute force, and a whole substitution."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_world import INPUTS, MODEL, SILENT, SPLITS, colour, source

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.frames import to_pixels
from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, sha256_of_ids
from clip4vla.config.run import Substitute
from clip4vla.inference import donors as substitution
from clip4vla.inference.donors import random_donor, substitute
from clip4vla.loading.tokenizer import tokenize
from clip4vla.models.common.images import pixels


def unit(rows, seed):
    x = np.random.default_rng(seed).standard_normal((rows, 6)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_random_donor_depends_on_the_clip_alone():
    donors = [f"d{i}" for i in range(50)]
    drawn = [random_donor(f"clip{i}", donors) for i in range(200)]
    assert drawn == [random_donor(f"clip{i}", donors) for i in range(200)]
    assert len(set(drawn)) > 40


def plan(**given):
    queries = [source("train"), source("val"), source("test")]
    values = {"start": None, "queries": queries, "donors": source("train")}
    return Substitute(**(values | {"model": MODEL, "inputs": INPUTS} | given))


def test_every_silent_clip_gets_a_donor_with_sound_from_train(manifests, tmp_path):
    substitute(plan(), manifests, None, {}, tmp_path)
    table = pd.read_csv(tmp_path / "substitution.tsv", sep="\t")
    sounding = sorted(set(SPLITS["train"]) - SILENT)
    assert table.columns.tolist() == ["clip_id", "donor", "cosine", "random_donor"]
    assert table.clip_id.tolist() == sorted(SILENT)
    assert set(table.donor) | set(table.random_donor) <= set(sounding)
    # Clips are colours with a little noise: even random towers find the same colour.
    assert [colour(clip) for clip in table.clip_id] == [colour(clip) for clip in table.donor]
    summary = read_json(tmp_path / "substitute.json")
    assert summary["queries"] == {"test": 1, "train": 2, "val": 1}
    assert (summary["silent"], summary["donors"], summary["donors_split"]) == (4, 7, "train")
    assert summary["donors_ids_sha256"] == sha256_of_ids(sounding)
    assert summary["mean_cosine"] == pytest.approx(table.cosine.mean(), abs=1e-6)
    first = (tmp_path / "substitution.tsv").read_bytes()
    substitute(plan(), manifests, None, {}, tmp_path / "again")
    assert (tmp_path / "again" / "substitution.tsv").read_bytes() == first


def test_a_clip_of_fewer_frames_is_pooled_over_its_own(manifests, tmp_path, monkeypatch):
    """Clips of one frame and of two in one batch: the neighbours are those of each clip alone."""
    real = ClipCache.read_frames

    def fewer(cache, clip_id, *which):
        return real(cache, clip_id, *which)[: 1 + int(clip_id[1:]) % 2]

    monkeypatch.setattr(ClipCache, "read_frames", fewer)
    model = initial_model(MODEL, INPUTS, None, {}).eval()
    cache = ClipCache(next(iter(manifests.values())))

    def alone(clip_id):
        frames = torch.stack([to_pixels(jpeg) for jpeg in cache.read_frames(clip_id)])[None]
        with torch.no_grad():
            found = model.encode_vision(frames, torch.ones(frames.shape[:2], dtype=torch.bool))[0]
        mean = torch.nn.functional.normalize(found, dim=-1).mean(0)
        return torch.nn.functional.normalize(mean, dim=-1)

    neighbours(tmp_path, manifests, alone)


def neighbours(tmp_path, manifests, vector, **given):
    """Run a substitution; its table, which must have the neighbours of `vector`, by brute force."""
    substitute(plan(**given), manifests, None, {}, tmp_path)
    table = pd.read_csv(tmp_path / "substitution.tsv", sep="\t")
    assert table.clip_id.tolist() == sorted(SILENT)
    donors = {clip: vector(clip) for clip in sorted(set(SPLITS["train"]) - SILENT)}
    for row in table.itertuples():
        cosines = {clip: float(vector(row.clip_id) @ other) for clip, other in donors.items()}
        assert row.donor == max(cosines, key=cosines.get)
        assert row.cosine == pytest.approx(cosines[row.donor], abs=3e-6)
    return table


def test_the_released_mean_counts_empty_frames(manifests, tmp_path, monkeypatch):
    """facts 10.2, step 2, written out: every slot passes the tower, and all of them are averaged."""
    real = ClipCache.read_frames

    def fewer(cache, clip_id, *which):
        return real(cache, clip_id, *which)[: 1 + int(clip_id[1:]) % 2]

    monkeypatch.setattr(ClipCache, "read_frames", fewer)
    inputs = INPUTS.model_copy(update={"max_frames": 3})
    model = initial_model(MODEL, inputs, None, {}).eval()
    cache = ClipCache(next(iter(manifests.values())))

    def padded(clip_id):
        found = torch.stack([to_pixels(jpeg) for jpeg in cache.read_frames(clip_id)])
        frames = torch.zeros(1, 3, 3, 224, 224)  # the buffer, of values already normalised
        frames[0, : len(found)] = pixels(found)
        with torch.no_grad():
            found = model.encode_vision(frames, torch.ones(1, 3, dtype=torch.bool))[0]
        found = found / found.norm(dim=-1, keepdim=True)
        mean = found.mean(0)
        return mean / mean.norm()

    given = {"inputs": inputs, "mean": "plain"}
    plain = neighbours(tmp_path, manifests, padded, **given)
    substitute(plan(inputs=inputs), manifests, None, {}, tmp_path / "masked")
    masked = pd.read_csv(tmp_path / "masked" / "substitution.tsv", sep="\t")
    assert (plain.donor != masked.donor).any()
    summary = read_json(tmp_path / "substitute.json")
    assert (summary["neighbours"], summary["reads_test_captions"]) == ("vision", False)


SAID = {  # what a donor and a silent clip share is said by no frame of theirs
    **{f"t{i}": ["a very very long word", f"number {i} is sung"] for i in range(9)},
    "t0": ["rain", "heavy rain falls on a tin roof"],
    "t1": ["heavy rain falls", "a man talks about cars and trucks"],
    "t4": ["someone plays the piano very quietly", "a man talks"],
    "e3": ["a man talks", "heavy rain falls on a tin roof at night"],
    "v1": ["rain", "a man talks about trucks and other cars"],
}


@pytest.fixture
def said(monkeypatch):
    """The world's clips with the captions of SAID."""
    real = substitution.split_rows

    def split_rows(cache, of):
        rows = real(cache, of)
        return rows.assign(
            captions=[
                SAID.get(c, list(w)) for c, w in zip(rows.clip_id, rows.captions, strict=True)
            ]
        )

    monkeypatch.setattr(substitution, "split_rows", split_rows)
    return split_rows


def test_released_links_are_neighbours_of_the_longest_captions(manifests, tmp_path, said):
    """facts 10.2: end tokens, normalised; a silent test clip is asked for by its own caption."""
    inputs = INPUTS.model_copy(update={"max_words": 16})
    model = initial_model(MODEL, inputs, None, {}).eval()
    cache = ClipCache(next(iter(manifests.values())))
    rows = pd.concat(said(cache, source(split)) for split in SPLITS)
    captions = {clip: list(known) for clip, known in zip(rows.clip_id, rows.captions, strict=True)}

    def longest(clip_id):
        text = sorted(captions[clip_id], key=len)[-1]
        with torch.no_grad():
            return torch.nn.functional.normalize(
                model.encode_text(tokenize([text], 16))[1], dim=-1
            )[0]

    table = neighbours(tmp_path, manifests, longest, inputs=inputs, neighbours="text")
    by_frames = tmp_path / "frames"
    substitute(plan(inputs=inputs), manifests, None, {}, by_frames)
    frames = pd.read_csv(by_frames / "substitution.tsv", sep="\t")
    assert (table.donor != frames.donor).any()
    assert (table.random_donor == frames.random_donor).all()
    summary = read_json(tmp_path / "substitute.json")
    assert (summary["neighbours"], summary["reads_test_captions"]) == ("text", True)


def test_a_clip_without_a_caption_has_no_link(manifests, tmp_path, monkeypatch):
    real = substitution.split_rows
    monkeypatch.setattr(
        substitution,
        "split_rows",
        lambda cache, of: real(cache, of).assign(captions=lambda rows: [[]] * len(rows)),
    )
    with pytest.raises(UserError, match="has no caption"):
        substitute(plan(neighbours="text"), manifests, None, {}, tmp_path)


def test_a_split_without_silent_clips_needs_no_donor(manifests, tmp_path, monkeypatch):
    monkeypatch.setattr(substitution, "_silent_rows", lambda cache, source: cache.splits[:0])
    substitute(plan(), manifests, None, {}, tmp_path)
    assert (tmp_path / "substitution.tsv").read_text().splitlines() == [
        "clip_id\tdonor\tcosine\trandom_donor"
    ]
    assert read_json(tmp_path / "substitute.json")["mean_cosine"] is None


def test_no_clip_with_sound_means_no_donor(manifests, tmp_path, monkeypatch):
    monkeypatch.setattr(substitution, "split_rows", lambda cache, source: cache.splits[:0])
    with pytest.raises(UserError, match="none can be a donor"):
        substitute(plan(), manifests, None, {}, tmp_path)


def test_a_clip_that_is_held_out_lends_nothing(manifests, tmp_path):
    """Donors of a split that holds test clips: refused, naming one."""
    cache = substitution.Caches(manifests)[source("train")]
    mixed = cache.splits[cache.splits.split == "test"].assign(split="train")

    def split_rows(cache, of):
        rows = cache.splits[cache.splits.split == of.split]
        return pd.concat([rows, mixed]) if of.split == "train" else rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(substitution, "split_rows", split_rows)
        with pytest.raises(
            UserError, match="4 clips of split 'test' are in 'train' too, such as e0"
        ):
            substitute(plan(), manifests, None, {}, tmp_path)


def test_padding_frames_do_not_move_a_pooled_clip():
    """The released mean counts empty frames (facts 10.2); ours must not."""
    from clip4vla.models.common.pooling import pool

    features = torch.from_numpy(unit(3, 5))[None]
    longer = torch.cat([features, torch.zeros(1, 2, 6)], dim=1)
    mask = torch.tensor([[True, True, True, False, False]])
    assert torch.allclose(pool(longer, mask), pool(features, mask[:, :3]))

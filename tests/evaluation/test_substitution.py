"""Donors: nearest neighbours against brute force, and a whole substitution."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_world import INPUTS, MODEL, SILENT, SPLITS, colour, source

from clip4vla.config.run import Substitute
from clip4vla.errors import UserError
from clip4vla.evaluation import substitution
from clip4vla.evaluation.start import starting_model
from clip4vla.evaluation.substitution import random_donor, substitute
from clip4vla.features.cache import ClipCache
from clip4vla.features.frames import to_pixels
from clip4vla.files import read_json, sha256_of_ids


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

    def fewer(cache, clip_id, most=None):
        return real(cache, clip_id, most)[: 1 + int(clip_id[1:]) % 2]

    monkeypatch.setattr(ClipCache, "read_frames", fewer)
    substitute(plan(), manifests, None, {}, tmp_path)
    table = pd.read_csv(tmp_path / "substitution.tsv", sep="\t")
    model = starting_model(MODEL, INPUTS, None, {}).eval()
    cache = ClipCache(next(iter(manifests.values())))

    def alone(clip_id):
        frames = torch.stack([to_pixels(jpeg) for jpeg in cache.read_frames(clip_id)])[None]
        with torch.no_grad():
            found = model.encode_vision(frames, torch.ones(frames.shape[:2], dtype=torch.bool))[0]
        mean = torch.nn.functional.normalize(found, dim=-1).mean(0)
        return torch.nn.functional.normalize(mean, dim=-1)

    donors = {clip: alone(clip) for clip in sorted(set(SPLITS["train"]) - SILENT)}
    for row in table.itertuples():
        cosines = {clip: float(alone(row.clip_id) @ vector) for clip, vector in donors.items()}
        assert row.donor == max(cosines, key=cosines.get)
        assert row.cosine == pytest.approx(cosines[row.donor], abs=1e-5)


def test_a_split_without_silent_clips_needs_no_donor(manifests, tmp_path, monkeypatch):
    monkeypatch.setattr(substitution, "_silent_rows", lambda cache, source: cache.splits[:0])
    substitute(plan(), manifests, None, {}, tmp_path)
    assert (tmp_path / "substitution.tsv").read_text().splitlines() == [
        "clip_id\tdonor\tcosine\trandom_donor"
    ]
    assert read_json(tmp_path / "substitute.json")["mean_cosine"] is None


def test_no_clip_with_sound_means_no_donor(manifests, tmp_path, monkeypatch):
    monkeypatch.setattr(substitution, "split_rows", lambda cache, source: cache.splits[:0])
    with pytest.raises(UserError, match="nobody can be a donor"):
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
    from clip4vla.models.pooling import pool

    features = torch.from_numpy(unit(3, 5))[None]
    longer = torch.cat([features, torch.zeros(1, 2, 6)], dim=1)
    mask = torch.tensor([[True, True, True, False, False]])
    assert torch.allclose(pool(longer, mask), pool(features, mask[:, :3]))

import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import features_fakes
import numpy as np
import pandas as pd
import pytest
import torch
import webdataset
from features_fakes import CLIPS, fake_audio, fake_frames

from clip4vla.cache import clips as cache_module
from clip4vla.cache.clips import ClipCache
from clip4vla.cache.frames import encode
from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.cache.manifest import freeze, read_manifest, stay_frozen
from clip4vla.cache.shards import INDEX_COLUMNS
from clip4vla.cache.verify import verify
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file, sha256_of_ids
from clip4vla.config.data import Cache, LogMel

LONG = "x" * 100


def test_round_trip(cache):
    front_end = LogMelFrontend(LogMel())
    for clip_id, (_, channels, shard) in CLIPS.items():
        raw = cache.read(clip_id)
        frames = [encode(frame, Cache().frames) for frame in fake_frames(clip_id, 1.0)]
        assert raw.frames == frames
        assert cache.shard_of([clip_id]).tolist() == [shard]
        if channels == 0:
            assert raw.log_mel is None and clip_id in cache.silent
        else:
            assert torch.equal(raw.log_mel, front_end(*fake_audio(clip_id)))
            assert torch.equal(cache.read_log_mel(clip_id), raw.log_mel)
    assert cache.read("echo", max_frames=4).frames == [
        cache.read("echo").frames[i] for i in (0, 4, 9, 14)
    ]


def test_index_rows(build, tmp_path):
    index = build(tmp_path / "0.tar")
    assert index.columns.tolist() == INDEX_COLUMNS
    assert index.clip_id.tolist() == ["alpha", "bravo", "charlie"]
    assert index.channels.tolist() == [1, 3, 0]
    assert index["T"].tolist() == [313, 501, 0]
    assert index.n_frames.tolist() == [2, 4, 3]
    assert index.log_mel_offset.gt(0).tolist() == [True, True, False]
    assert set(index.tar_sha256) == {sha256_of_file(tmp_path / "0.tar")}


def test_webdataset_groups_members_by_clip(build, tmp_path):
    build(tmp_path / "0.tar")
    samples = list(webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["alpha", "bravo", "charlie"]
    assert {"000000.jpg", "000003.jpg", "logmel.npy", "json"} <= samples[1].keys()
    array = np.load(io.BytesIO(samples[1]["logmel.npy"]), allow_pickle=False)
    assert array.dtype == np.float16 and array.shape == (3, 501, 224)
    with tarfile.open(tmp_path / "0.tar") as tar:
        about = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert about == {(0, 0, 0, "clip4vla", "clip4vla", 0o444)}


def test_equal_bytes_in_two_builds_and_any_row_order(build, ledger, tmp_path):
    first = build(tmp_path / "a" / "1.tar", shard=1)
    second = build(tmp_path / "b" / "1.tar", shard=1, rows=ledger.iloc[::-1])
    assert (tmp_path / "a/1.tar").read_bytes() == (tmp_path / "b/1.tar").read_bytes()
    pd.testing.assert_frame_equal(first, second)


def test_killed_builder_leaves_nothing_that_counts(build, ledger, tmp_path):
    """A builder dies of SIGKILL in its second clip; the next one is not disturbed."""
    whole = build(tmp_path / "whole" / "0.tar")
    ledger.to_parquet(tmp_path / "ledger.parquet")
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(features_fakes.__file__).parent)!r})
import pandas as pd
from clip4vla.config.data import Cache
from clip4vla.cache.shards import build_shard
from features_fakes import fake_audio, fake_frames
def frames(path, fps, seconds):
    if "bravo" in path:
        os.kill(os.getppid(), signal.SIGKILL)  # the builder: clips are decoded by its child
    return fake_frames(path, fps, seconds)
rows = pd.read_parquet({str(tmp_path / "ledger.parquet")!r})
build_shard(rows[rows.shard == 0], Cache(), {str(tmp_path / "0.tar")!r}, fake_audio, frames)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "0.tar").exists()
    assert list(tmp_path.glob(".0.tar.*.tmp"))
    (tmp_path / ".0.parquet.1.tmp").write_bytes(b"PAR1")  # of one killed in its index
    again = build(tmp_path / "0.tar")
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "whole/0.tar").read_bytes()
    pd.testing.assert_frame_equal(again, whole)
    assert not list(tmp_path.glob(".0.*.tmp"))


def broken_frames(path, fps, seconds):
    if "bravo" in path:
        raise ValueError(f"no key frame in {path}")
    return fake_frames(path, fps, seconds)


def nan_audio(path):
    wave, rate = fake_audio(path)
    return (wave * np.nan if "alpha" in path else wave), rate


def test_a_broken_clip_affects_no_other(build, tmp_path):
    index = build(tmp_path / "0.tar", audio=nan_audio, frames=broken_frames).set_index("clip_id")
    assert index.cache.to_dict() == {
        "alpha": "decode_error",
        "bravo": "decode_error",
        "charlie": "ok",
    }
    assert "NaN" in index.detail["alpha"]
    assert index.detail["bravo"] == "ValueError: no key frame in bravo.mp4"
    with tarfile.open(tmp_path / "0.tar") as tar:
        assert {name.split(".")[0] for name in tar.getnames()} == {"charlie"}


def test_a_cut_clip_ends_at_its_planned_end(build, ledger, tmp_path):
    """A cut without re-encoding keeps pictures beyond its end: only the planned ones are kept."""
    cut = ledger.assign(start=1.0, end=2.0)
    index = build(tmp_path / "0.tar", rows=cut)
    assert set(index.n_frames) == {1}


def test_a_video_without_frames_is_a_decode_error(build, tmp_path):
    index = build(tmp_path / "0.tar", frames=lambda path, fps, seconds: iter(()))
    assert set(index.cache) == {"decode_error"}


def test_a_failing_disk_is_no_decode_error(build, tmp_path):
    def frames(path, fps, seconds):
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        build(tmp_path / "0.tar", frames=frames)
    assert not (tmp_path / "0.tar").exists()


def test_missing_media_names_the_file(build, ledger, tmp_path):
    Path(ledger.path[1]).unlink()
    with pytest.raises(UserError, match=r"bravo\.mp4: the media file of clip bravo is missing"):
        build(tmp_path / "0.tar")


def test_manifest(manifest_path, cache):
    manifest = read_manifest(manifest_path)
    assert manifest["dataset"] == "demo-v1-0a1b2c"
    assert manifest["cache"] == Cache().scientific()
    assert manifest["splits"]["train"] == {
        "planned": 7,
        "usable": 6,
        "silent": 1,
        "ids_sha256": sha256_of_ids(CLIPS),
    }
    assert manifest["splits"]["test"]["usable"] == 2
    assert [shard["clips"] for shard in manifest["shards"]] == [3, 3]
    for shard in manifest["shards"]:
        for kind in ("tar", "index"):
            assert sha256_of_file(manifest_path.parent / shard[kind]) == shard[f"{kind}_sha256"]
    assert cache.manifest_sha256 == sha256_of_file(manifest_path)
    assert cache.clips.clip_id.tolist() == sorted(CLIPS)
    assert "gone" not in set(cache.splits.clip_id)
    assert cache.splits.columns.tolist() == ["split", "clip_id", "captions", "labels"]


def test_manifest_is_a_pure_function_of_its_inputs(manifest_path, ledger, cache):
    before = manifest_path.read_bytes()
    folder = manifest_path.parent
    splits = pd.concat([cache.splits, cache.splits.iloc[:1].assign(clip_id="gone", split="train")])
    indexes = [folder / "shards" / f"{shard}.parquet" for shard in (1, 0)]
    freeze(ledger.iloc[::-1], splits.iloc[::-1], indexes, "demo-v1-0a1b2c", Cache(), folder)
    assert manifest_path.read_bytes() == before


def test_a_frozen_version_is_made_again_but_never_changed(manifest_path):
    before = manifest_path.read_bytes()
    stay_frozen(manifest_path)
    manifest_path.unlink()
    manifest_path.write_bytes(before)
    stay_frozen(manifest_path)
    manifest_path.write_bytes(before.replace(b"charlie", b"charlyx") + b" ")
    with pytest.raises(UserError, match="frozen before with other contents"):
        stay_frozen(manifest_path)
    assert not manifest_path.exists()


def test_undecodable_clips_are_not_in_the_version(manifest_path, ledger, build, cache):
    folder = manifest_path.parent
    index = build(folder / "shards" / "0.tar", frames=broken_frames)
    index.to_parquet(folder / "shards" / "0.parquet")
    paths = [folder / "shards" / f"{shard}.parquet" for shard in (0, 1)]
    manifest = freeze(ledger, cache.splits, paths, "demo-v1-0a1b2c", Cache(), folder)
    assert list(manifest["not_decodable"]) == ["bravo"]
    again = ClipCache(manifest_path)
    assert "bravo" not in again and "alpha" in again
    assert "bravo" not in set(again.splits.clip_id)
    with pytest.raises(UserError, match="no clip bravo"):
        again.read("bravo")


def test_empty_shard(manifest_path, ledger, build, cache):
    folder = manifest_path.parent
    build(folder / "shards" / "2.tar", shard=2).to_parquet(folder / "shards" / "2.parquet")
    paths = [folder / "shards" / f"{shard}.parquet" for shard in (0, 1, 2)]
    freeze(ledger, cache.splits, paths, "demo-v1-0a1b2c", Cache(), folder)
    assert len(ClipCache(manifest_path).clips) == len(CLIPS)


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_damaged_tar_is_named_with_its_remedy(manifest_path, how):
    tar = manifest_path.parent / "shards" / "1.tar"
    tar.write_bytes(tar.read_bytes()[:-1]) if how == "cut" else tar.unlink()
    with pytest.raises(UserError, match=r"1\.tar: .*verify demo-v1-0a1b2c --repair") as error:
        ClipCache(manifest_path)
    assert "\n" not in str(error.value)


def test_tar_cut_while_open(cache, manifest_path):
    os.truncate(manifest_path.parent / "shards" / "1.tar", 2000)
    with pytest.raises(UserError, match=r"1\.tar: .*--repair"):
        cache.read("echo")


def test_changed_index_is_named(manifest_path):
    index = manifest_path.parent / "shards" / "0.parquet"
    pd.read_parquet(index).assign(detail="other").to_parquet(index)
    with pytest.raises(UserError, match=r"0\.parquet: .*changed"):
        ClipCache(manifest_path)


def test_missing_manifest(tmp_path):
    with pytest.raises(UserError, match="no such manifest"):
        ClipCache(tmp_path / "manifest.json")


def test_threads_and_few_open_files(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "OPEN_TARS", 1)
    expected = {clip_id: cache.read(clip_id).frames for clip_id in CLIPS}
    ids = list(CLIPS) * 30
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda clip_id: cache.read(clip_id).frames, ids))
    assert results == [expected[clip_id] for clip_id in ids]


def test_a_cache_can_be_pickled(cache):
    cache.read("alpha")
    again = pickle.loads(pickle.dumps(cache))
    assert again.read("alpha").frames == cache.read("alpha").frames


def test_fork_reads_the_same(cache):
    frames = cache.read(LONG).frames
    child = os.fork()
    if child == 0:
        same = all(cache.read(LONG).frames == frames for _ in range(20))
        os._exit(0 if same else 1)
    assert all(cache.read(LONG).frames == frames for _ in range(20))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "corrupt manifest"),
        ('{"shards": [{"tar": "a.tar"}]}', "corrupt manifest"),
        ("[]", "corrupt manifest"),
        ('{"shards": [{"tar": "../a.tar", "index": "a"}], "files": {}}', "outside its folder"),
        ('{"shards": [], "files": {"/etc/passwd": ""}}', "outside its folder"),
    ],
)
def test_invalid_manifests(tmp_path, text, message):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    for read in (verify, ClipCache):
        with pytest.raises(UserError, match=message) as error:
            read(path)
        assert "\n" not in str(error.value)

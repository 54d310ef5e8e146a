"""A frozen version that was changed is refused when it is read, in one line with the fix."""

import json
import pickle
import re

import pandas as pd
import pytest
from features_fakes import CLIPS

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.manifest import check_frozen, read_manifest, stay_frozen
from clip4vla.cache.verify import verify
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file, write_json, write_parquet
from clip4vla.config.sections import Inputs
from clip4vla.loading.samples import ClipSamples

REPAIR = re.escape("Fix: run `clip4vla data verify demo-v1-0a1b2c --repair`")


def refused(call, *arguments, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


def rewritten(path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def test_captions_that_were_rewritten_are_refused(manifest_path):
    path = manifest_path.with_name("splits.parquet")
    table = pd.read_parquet(path)
    write_parquet(path, table.assign(captions=[["another"] for _ in table.index]))
    refused(ClipCache, manifest_path, match=rf"splits\.parquet: changed since .* {REPAIR}")


@pytest.mark.parametrize("name", ["clips.parquet", "splits.parquet", "shards/0.parquet"])
@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more", b"PAR1" * 100, b"{}"])
def test_a_damaged_table_is_named_with_its_remedy(manifest_path, name, content):
    rewritten(manifest_path.parent / name, content)
    refused(ClipCache, manifest_path, match=rf"{re.escape(name)}: .* {REPAIR}")


def test_a_table_that_the_manifest_vouches_for_must_still_be_one(manifest_path):
    """An edit of both the table and its hash in a manifest that nothing else vouches for."""
    path = manifest_path.with_name("clips.parquet")
    write_parquet(path, pd.DataFrame({"clip_id": ["alpha"]}))
    manifest = json.loads(manifest_path.read_text())
    manifest["files"]["clips.parquet"] = sha256_of_file(path)
    write_json(manifest_path, manifest)
    refused(ClipCache, manifest_path, match=rf"clips\.parquet: no column sound, .* {REPAIR}")


def test_an_edited_manifest_is_refused(manifest_path):
    stay_frozen(manifest_path)
    assert check_frozen(manifest_path)
    manifest_path.write_text(manifest_path.read_text().replace('"silent": 1', '"silent": 0'))
    for read in (ClipCache, read_manifest, verify):
        refused(read, manifest_path, match=r"manifest\.json: changed since it was frozen .* Fix: ")


def test_a_manifest_without_a_note_is_read_and_known_to_be_unverified(manifest_path):
    assert not check_frozen(manifest_path)
    assert len(ClipCache(manifest_path).clips) == len(CLIPS)


@pytest.mark.parametrize("content", [b"", b"0123", b"\xff\xfe garbage", b"0" * 63 + b"g"])
def test_a_damaged_note_is_named_with_its_remedy(manifest_path, content):
    manifest_path.with_name("frozen.sha256").write_bytes(content)
    for call in (ClipCache, stay_frozen):
        refused(call, manifest_path, match=r"frozen\.sha256: damaged: .* Fix: ")
    assert manifest_path.is_file()


@pytest.mark.parametrize("key", ["dataset", "cache", "clips", "splits", "not_decodable", "tools"])
def test_a_manifest_that_lacks_a_part_is_named(manifest_path, key):
    manifest = json.loads(manifest_path.read_text())
    del manifest[key]
    manifest_path.write_text(json.dumps(manifest))
    refused(ClipCache, manifest_path, match=r"manifest\.json: corrupt manifest\. Fix: ")


@pytest.fixture
def zeroed(manifest_path):
    """Zero 32 bytes of the log-mel of bravo; nothing but its hash tells."""
    index = manifest_path.parent / "shards" / "0.parquet"
    row = pd.read_parquet(index).set_index("clip_id").loc["bravo"]
    with open(index.with_suffix(".tar"), "r+b") as stream:
        stream.seek(int(row.log_mel_offset) + 5000)
        stream.write(bytes(32))
    return manifest_path


@pytest.mark.parametrize("clip_id", CLIPS)
def test_every_intact_clip_passes(cache, clip_id):
    cache.check_every = 1
    cache.spot_check(clip_id)


def test_zeroed_sound_is_refused(zeroed):
    cache = ClipCache(zeroed, check_every=1)
    refused(cache.spot_check, "bravo", match=rf"0\.tar: clip bravo: its bytes .* {REPAIR}")
    cache.spot_check("alpha")


@pytest.mark.parametrize("position", [0, 3])
def test_a_changed_picture_is_refused(manifest_path, position):
    index = manifest_path.parent / "shards" / "0.parquet"
    row = pd.read_parquet(index).set_index("clip_id").loc["bravo"]
    with open(index.with_suffix(".tar"), "r+b") as stream:
        stream.seek(int(row.frame_offsets[position] + row.frame_sizes[position] // 2))
        stream.write(bytes(16))
    cache = ClipCache(manifest_path, check_every=1)
    refused(cache.spot_check, "bravo", match=rf"0\.tar: clip bravo: its bytes .* {REPAIR}")


def test_samples_check_what_they_read(zeroed):
    """The clip itself, and the donor whose sound a silent clip gets; in another process too."""
    cache = pickle.loads(pickle.dumps(ClipCache(zeroed, check_every=1)))
    options = {"inputs": Inputs(max_frames=2), "nonverbal_share": 0.5, "missing": "substitute"}
    for clip_id, donor in (("bravo", "alpha"), ("charlie", "bravo")):
        samples = ClipSamples(cache, [(clip_id, "", ())], donor_of={"charlie": donor}, **options)
        refused(samples.__getitem__, 0, match=rf"clip bravo: its bytes .* {REPAIR}")


def test_a_share_of_the_reads_is_checked(zeroed, monkeypatch):
    """One in `check_every`, drawn anew each time: another epoch checks other clips."""
    draws = iter([3, 0, 15, 1])
    monkeypatch.setattr("clip4vla.cache.clips.secrets.randbelow", lambda _: next(draws))
    cache = ClipCache(zeroed)
    cache.spot_check("bravo")
    refused(cache.spot_check, "bravo", match="its bytes have changed")
    cache.spot_check("bravo")
    cache.spot_check("bravo")

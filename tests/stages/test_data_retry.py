"""`clip4vla data retry`, passes and frozen versions, through the real rules."""

import os
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from data_world import FILES, by_hand, by_snakemake, line
from synthetic import make_clip
from typer.testing import CliRunner

from clip4vla.cli.main import app
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config import layout
from clip4vla.media.local import has_changed
from clip4vla.stages import data, data_status


@pytest.mark.parametrize("run", [by_hand, pytest.param(by_snakemake, marks=pytest.mark.slow)])
def test_only_refused_clips_are_requested_again(world, run):
    (version,) = world.plan().versions
    folder = layout.data_dir(version)
    run(world, folder)
    first = pd.read_parquet(f"{folder}/ledger.parquet").set_index("clip_id")
    assert dict(first.fetch) == {
        "good": "ok", "fine": "ok", "page": "ok", "lost": "gone",
        "full": "rate_limited", "late": "rate_limited",
    }  # fmt: skip
    assert "2 must wait" in data_status.retry(world.plan(), "demo")[0]
    world.the_pause_is_over()
    world.site.asked.clear()
    (said,) = data_status.retry(world.plan(), "demo")
    assert "2 clips in " in said and "will be asked for by the next snakemake" in said
    assert "0 clips in 0 shards" in data_status.retry(world.plan(), "demo")[0]
    run(world, folder)
    second = pd.read_parquet(f"{folder}/ledger.parquet").set_index("clip_id")
    assert second.fetch["full"] == "ok" and second.fetch["lost"] == "gone"
    assert {path.split("/")[2] for path in world.site.asked} == {"full.mp4", "late.mp4"}
    kept = ["good", "fine", "page", "lost"]
    assert first.loc[kept].equals(second.loc[kept])
    assert set(world.plan().versions) == {version}


def test_a_frozen_version_stays_and_a_new_pass_carries_over(world):
    plan = world.plan()
    (version,) = plan.versions
    data.plan(plan, version)
    for shard in range(2):
        data.fetch(plan, version, shard)
    (cache_id,) = {cache_id for _, cache_id in plan.caches}
    manifest = Path(layout.manifest(version, cache_id))
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    world.the_pause_is_over()
    with pytest.raises(UserError, match=r": frozen.*Fix: raise datasets\.demo\.fetch_pass to 2"):
        data_status.retry(plan, "demo")
    for shard in range(2):  # even when somebody takes the table away
        table = Path(layout.shard_dir(version, shard), "fetch.parquet")
        before = table.read_bytes()
        table.unlink()
        data.fetch(plan, version, shard)
        assert table.read_bytes() == before
    world.site.asked.clear()
    world.write(fetch_pass=2)
    later = world.plan()
    (second,) = later.versions
    assert second != version
    data.plan(later, second)
    for shard in range(2):
        data.fetch(later, second, shard)
    rows = pd.concat(
        [pd.read_parquet(f"{layout.shard_dir(second, shard)}/fetch.parquet") for shard in range(2)]
    ).set_index("clip_id")
    assert rows.fetch["full"] == "ok" and rows.fetch["lost"] == "gone"
    assert {path.split("/")[2] for path in world.site.asked} <= {"full.mp4", "late.mp4"}
    assert all(second in path for path in rows.path if path)
    assert manifest.read_text() == "{}"


def test_a_frozen_version_refuses_to_become_another(world):
    (version,) = world.plan().versions
    folder = layout.data_dir(version)
    by_hand(world, folder)
    plan = world.plan()
    (cache_id,) = {cache_id for _, cache_id in plan.caches}
    manifest = Path(layout.manifest(version, cache_id))
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    ledger = pd.read_parquet(f"{folder}/ledger.parquet").set_index("clip_id")
    shard = int(ledger.shard["good"])
    table = Path(layout.shard_dir(version, shard), "fetch.parquet")
    before = table.read_bytes()
    os.unlink(ledger.path["good"])
    table.unlink()
    world.site.body += b"more"  # the server has another file now
    with pytest.raises(UserError, match=r"frozen.*1 clips .*first: good.*fetch_pass to 2"):
        data.fetch(plan, version, shard)
    assert not table.exists()
    world.site.body = world.site.body[:-4]
    os.unlink(ledger.path["good"])
    data.fetch(plan, version, shard)
    assert table.read_bytes() == before


def test_clips_wait_for_their_pause(world):
    plan = world.plan()
    (version,) = plan.versions
    data.plan(plan, version)
    for shard in range(2):
        data.fetch(plan, version, shard)
    (said,) = data_status.retry(plan, None)
    assert "0 clips in 0 shards" in said and "2 must wait, the first until 2" in said
    assert Path(layout.shard_dir(version, 0), "fetch.parquet").is_file()


def test_pauses_can_be_ended(world):
    plan = world.plan()
    (version,) = plan.versions
    world.site.retry_after = "7200"
    folder = layout.data_dir(version)
    by_hand(world, folder)
    assert "0 clips in 0 shards" in data_status.retry(plan, "demo")[0]
    assert " 0 clips" not in data_status.retry(plan, "demo", at_once=True)[0]
    world.site.retry_after = None
    by_hand(world, folder)
    rows = pd.read_parquet(f"{folder}/ledger.parquet").set_index("clip_id")
    assert list(rows.fetch[["fine", "full", "good"]]) == ["ok"] * 3


def test_local_files_are_looked_for_again(world, tmp_path):
    media = tmp_path / "media"
    (media / "ok").mkdir(parents=True)
    world.write(source="local", media=str(media))
    plan = world.plan()
    (version,) = plan.versions
    data.plan(plan, version)
    for shard in range(2):
        data.fetch(plan, version, shard)
    (media / "ok" / "good.mp4").write_bytes(world.site.body)
    for shard in range(2):
        data.probe(version, shard)
    assert "put the files into `media`, then `clip4vla data retry`" in world.status()
    assert "6 clips in 2 shards" in data_status.retry(plan, "demo")[0]
    text = world.status(missing=Path("none.tsv"))
    assert "0 of 2 shards fetched" in text and line(text, "train")[-2] == "3"
    for shard in range(2):
        data.fetch(plan, version, shard)
    assert line(world.status(), "train")[-2] == "1"  # good: there now, not probed yet


def retry(world, *arguments: str) -> str:
    """Return the output of the command."""
    options = [part for file in world.files for part in ("-c", str(file))]
    done = CliRunner().invoke(app, ["data", "retry", *arguments, *options])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


@pytest.mark.parametrize("run", [by_hand, pytest.param(by_snakemake, marks=pytest.mark.slow)])
def test_a_local_file_that_was_replaced_is_looked_at_again(world, tmp_path, run):
    media = tmp_path / "media"
    for file, _ in FILES.values():
        (media / file).parent.mkdir(parents=True, exist_ok=True)
        (media / file).write_bytes(world.site.body)
    whole, same = world.site.body, media / FILES["fine"][0]
    for clip in ("good", "page"):
        (media / FILES[clip][0]).write_bytes(b"damaged")
    (media / FILES["lost"][0]).unlink()
    world.write(source="local", media=str(media))
    (version,) = world.plan().versions
    folder = layout.data_dir(version)
    run(world, folder)
    first = pd.read_parquet(f"{folder}/ledger.parquet").set_index("clip_id")
    assert dict(first.video) == {
        "good": "decode_error", "page": "decode_error", "lost": "not_fetched",
        "fine": "ok", "full": "ok", "late": "ok",
    }  # fmt: skip
    listed = pd.read_csv(f"{folder}/missing.tsv", sep="\t").set_index("clip_id").detail
    assert listed["lost"] == f"no such file: {media}/404/lost.mp4"
    assert listed["good"] == f"{media}/ok/good.mp4"
    (media / FILES["good"][0]).write_bytes(whole)
    other = make_clip(tmp_path / "other.mp4", seconds=2.0).read_bytes()
    (media / FILES["full"][0]).write_bytes(other)  # another size: and it was usable
    shards = int(first.shard[["good", "page", "lost", "full"]].nunique())
    assert f"4 clips in {shards} shards will be asked for" in retry(world, "demo")
    run(world, folder)
    second = pd.read_parquet(f"{folder}/ledger.parquet").set_index("clip_id")
    assert second.video["good"] == "ok" and second.duration["full"] > first.duration["full"]
    kept = ["page", "lost", "fine", "late"]
    assert second.loc[kept].equals(first.loc[kept])
    assert same.read_bytes() == whole


def test_a_local_file_counts_as_changed_by_size_and_by_hash_where_it_is_newer(world, tmp_path):
    media, state = tmp_path / "media", tmp_path / "state"
    media.mkdir()
    path = media / "a.mp4"
    path.write_bytes(b"one two")
    row = {"file": "a.mp4", "path": str(path), "bytes": 7, "sha256": sha256_of_file(path)}

    def changed(since=0.0, **other) -> bool:
        return has_changed(SimpleNamespace(**row | other), media, state, since)

    later = path.stat().st_mtime + 3600
    assert not changed() and not changed(later)
    path.write_bytes(b"two one")
    os.utime(path, (1, 1))  # as `cp -p` does; the time of the change of the file's entry is new
    assert changed() and not changed(later)
    path.write_bytes(b"longer than before")
    assert changed(later)
    path.unlink()
    assert changed(later)
    path.write_bytes(b"one two")
    assert not changed() and changed(later, path="/elsewhere/a.mp4")  # `media` names another folder
    cut = {"path": str(state / "a.mp4"), "bytes": 1, "sha256": "of the cut"}
    assert changed(**cut) and not changed(later, **cut)


def test_retry_of_all_datasets_skips_a_frozen_one(world):
    plan = world.plan()
    (version,) = plan.versions
    by_hand(world, layout.data_dir(version))
    (cache_id,) = {cache_id for _, cache_id in plan.caches}
    manifest = Path(layout.manifest(version, cache_id))
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    world.the_pause_is_over()
    assert ": frozen, and runs may cite it. Fix: raise" in retry(world)

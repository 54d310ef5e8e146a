"""`clip4vla data status` at every stage, and with tables that are missing or damaged."""

import re
from pathlib import Path

import pandas as pd
import pytest
from data_world import by_hand, line

from clip4vla.common.errors import UserError
from clip4vla.config import layout
from clip4vla.stages import data, data_status


def test_status_at_every_stage(world):
    plan = world.plan()
    (version,) = plan.versions
    command = "snakemake ... data/"
    assert f"not planned yet: `{command}" in world.status()
    data.plan(plan, version)
    assert "0 of 2 shards fetched" in world.status()
    assert line(world.status(), "train") == ["train", "4", "3", *"-----", "3", "0.0%"]
    data.fetch(plan, version, 0)
    assert "1 of 2 shards fetched, 0 probed" in world.status()
    data.fetch(plan, version, 1)
    data.probe(version, 0)
    data.probe(version, 1)
    text = world.status(missing=Path("sent.tsv"))
    # official, planned, sound, silent, no video, refused, gone, not done, usable
    assert line(text, "train") == ["train", "4", "3", "1", *"--11-", "25.0%"]
    assert line(text, "test") == ["test", "2", "2", "1", *"--1--", "50.0%"]
    assert line(text, "val") == ["val", "1", "1", *"--1---", "0.0%"]
    assert "clip4vla data retry" in text and "rate_limited" in text
    narrow = world.status(width=80)
    assert line(narrow, "train") == line(text, "train")
    assert {"official", "planned", "silent", "refused", "usable"} <= set(narrow.split())
    sent = pd.read_csv("sent.tsv", sep="\t", keep_default_na=False).set_index("clip_id")
    assert list(sent.index) == ["full", "late", "lost", "page"]
    assert list(sent.retry) == ["later", "later", "never", ""]
    assert sent.loc["page", "video"] == "decode_error"
    data.ledger(plan, version)
    assert "2 probed, in the ledger" in world.status(dataset="demo")
    png = Path(layout.data_dir(version), "status.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 10_000
    before = png
    world.status(dataset=version)
    assert Path(layout.data_dir(version), "status.png").read_bytes() == before
    listed = pd.read_csv(f"{layout.data_dir(version)}/missing.tsv", sep="\t")
    assert list(listed.clip_id) == list(sent.index)
    with pytest.raises(UserError, match="no dataset 'mine'.*known: demo"):
        world.status(dataset="mine")


def test_status_counts_a_shard_that_is_under_way(world, monkeypatch):
    plan = world.plan()
    (version,) = plan.versions
    data.plan(plan, version)
    for shard in range(2):
        data.fetch(plan, version, shard)
        Path(layout.shard_dir(version, shard), "fetch.parquet").unlink()
    text = world.status()
    assert "0 of 2 shards fetched" in text
    assert line(text, "train")[6:8] == ["1", "1"]  # late: refused for now; lost: gone


def test_an_outdated_probe_is_ignored(world):
    """The table of a shard was deleted by hand, and made again."""
    plan = world.plan()
    (version,) = plan.versions
    by_hand(world, layout.data_dir(version))
    before = world.status()
    for shard in range(2):
        table = Path(layout.shard_dir(version, shard), "probe.parquet")
        pd.read_parquet(table).assign(video="not_fetched", audio="not_fetched").to_parquet(table)
    text = world.status(missing=Path("missing.tsv"))
    assert line(text, "train") == ["train", "4", "3", *"---111", "0.0%"] != line(before, "train")
    assert set(pd.read_csv("missing.tsv", sep="\t").clip_id) == {"lost", "late", "full"}


def test_unknown_shards_and_caches_are_reported(world):
    plan = world.plan()
    (version,) = plan.versions
    data.plan(plan, version)
    with pytest.raises(UserError, match="no shard 2. Fix: give 0 to 1"):
        data.fetch(plan, version, 2)
    with pytest.raises(UserError, match="no shard 2. Fix: give 0 to 1"):
        data.cache(plan, version, "deadbeef", 2)
    by_hand(world, layout.data_dir(version))
    with pytest.raises(UserError, match="no cache 'deadbeef' in this config; known: [0-9a-f]{8}"):
        data.cache(plan, version, "deadbeef", 0)
    with pytest.raises(UserError, match="no cache 'deadbeef' in this config; known: [0-9a-f]{8}"):
        data.freeze(plan, version, "deadbeef")
    (cache_id,) = {cache_id for _, cache_id in plan.caches}
    with pytest.raises(UserError, match=r"shards/0\.parquet: missing\. Fix: run"):
        data.freeze(plan, version, cache_id)
    Path(layout.data_dir(version), "ledger.parquet").write_bytes(b"cut off")
    with pytest.raises(
        UserError, match=r"ledger\.parquet: corrupt or truncated table\. Fix: delete it and run"
    ):
        data.cache(plan, version, cache_id, 0)


DAMAGES = {
    "cut off": lambda content: content[:200],
    "zeros in it": lambda content: content[:200] + bytes(len(content) - 208) + content[-8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["plan", "splits", "fetch", "probe"])
def test_a_damaged_table_is_reported(world, name, damage):
    plan = world.plan()
    (version,) = plan.versions
    by_hand(world, layout.data_dir(version))
    folder = (
        layout.shard_dir(version, 0) if name in ("fetch", "probe") else layout.data_dir(version)
    )
    path = Path(folder, f"{name}.parquet")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    command = layout.command_for(path)
    message = re.escape(f"{path}: corrupt or truncated table. Fix: delete it and run {command}")
    with pytest.raises(UserError, match=message):
        world.status()
    if name == "fetch":
        with pytest.raises(UserError, match=message):
            data_status.retry(plan, None)

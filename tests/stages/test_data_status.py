"""data status at every stage, data retry, passes and frozen versions, through the real rules."""

import csv
import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from clip4vla.cli import app
from clip4vla.config import layout
from clip4vla.config.plan import make_plan
from clip4vla.errors import UserError
from clip4vla.files import sha256_of_file
from clip4vla.media.local import has_changed
from clip4vla.stages import data, data_status

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "tests" / "media"))

from synthetic import Misbehaving, make_clip  # noqa: E402

FILES = {  # clip: file, split
    "good": ("ok/good.mp4", "train"),
    "fine": ("ok/fine.mp4", "test"),
    "lost": ("404/lost.mp4", "train"),
    "full": ("429x1/full.mp4", "test"),
    "late": ("429x2/late.mp4", "train"),
    "page": ("shorter/page.mp4", "val"),
}


class World:
    """A working folder, a server that refuses some clips for now, and the config of both."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.config = folder, folder / "mine.yaml"
        (folder / "notes").mkdir()
        columns = ("clip_id", "file", "split", "category", "spoken", "captions")
        with open(folder / "notes" / "clips.tsv", "w", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t")
            writer.writerow(columns)
            for clip_id, (file, split) in FILES.items():
                writer.writerow((clip_id, file, split, "kind", "0", json.dumps(["A clip."])))
        self.url = url
        self.write()

    def write(self, **more):
        dataset = {
            "annotations": "notes",
            "url": f"{self.url}/{{file}}",
            "expected": {"train": 4, "test": 2, "val": 1},
            "min_coverage": 0.1,
        }
        document = {
            "targets": ["demo_classification"],
            "experiments": str(REPO / "demo" / "experiments"),
            "datasets": {"demo": dataset | more},
            "recipe": {"pretrain": None, "missing_audio": "none"},
        }
        self.config.write_text(yaml.safe_dump(document))

    @property
    def files(self):
        return [REPO / "config.yaml", REPO / "demo" / "config.yaml", self.config]

    def the_pause_is_over(self) -> None:
        for journal in self.folder.glob("data/*/shards/*/media/journal.jsonl"):
            journal.write_text(re.sub(r'"again":\d+', '"again":0', journal.read_text()))

    def plan(self):
        return make_plan(self.files)

    def snakemake(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", self.folder]
        command += ["--snakefile", REPO / "workflow" / "Snakefile", "--resources", "net_slots=2"]
        command += ["--configfile", *self.files[1:], "--", *arguments]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stdout + done.stderr

    def status(self, width=200, **how) -> str:
        text = StringIO()
        console = Console(file=text, width=width, highlight=False, soft_wrap=True)
        data_status.status(self.plan(), how.get("dataset"), how.get("missing"), console)
        return text.getvalue()


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clip4vla.media.fetch.BACKOFF_SECONDS", (0.0, 0.01, 0.01))
    for name in ("no_proxy", "NO_PROXY", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    body = make_clip(tmp_path / "clip.mp4").read_bytes()
    site = Misbehaving(body)
    with site.serving() as url:
        world = World(tmp_path, url)
        world.site = site
        yield world


def line(text: str, begin: str) -> list[str]:
    """The cells of the table's line that begins so."""
    (found,) = [row for row in text.splitlines() if row.startswith(f"{begin} ")]
    return found.split()


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


def by_hand(world, folder):
    """What Snakemake does for the ledger: the missing files and what depends on them."""
    plan = world.plan()
    (version,) = plan.versions
    if not Path(folder, "plan.parquet").is_file():
        data.plan(plan, version)
    for shard in range(2):
        if not Path(layout.shard_dir(version, shard), "fetch.parquet").is_file():
            data.fetch(plan, version, shard)
            data.probe(version, shard)
    if not Path(folder, "ledger.parquet").is_file():
        data.ledger(plan, version)


def by_snakemake(world, folder):
    world.snakemake(f"{folder}/ledger.parquet")


@pytest.mark.parametrize("run", [by_hand, pytest.param(by_snakemake, marks=pytest.mark.slow)])
def test_the_next_run_asks_again_for_what_was_refused_and_nothing_else(world, run):
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
    with pytest.raises(UserError, match=r"is frozen.*raise datasets\.demo\.fetch_pass to 2"):
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
    """What the command says."""
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


def test_all_datasets_are_asked_again_beside_a_frozen_one(world):
    plan = world.plan()
    (version,) = plan.versions
    by_hand(world, layout.data_dir(version))
    (cache_id,) = {cache_id for _, cache_id in plan.caches}
    manifest = Path(layout.manifest(version, cache_id))
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    world.the_pause_is_over()
    assert "is frozen, and runs may cite it: raise" in retry(world)


def test_a_probe_from_before_the_file_was_there_counts_for_nothing(world):
    """The table of a shard was taken away by hand, and made again."""
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


def test_shards_and_caches_that_are_not_there_are_named(world):
    plan = world.plan()
    (version,) = plan.versions
    data.plan(plan, version)
    with pytest.raises(UserError, match="no shard 2: they are 0 to 1"):
        data.fetch(plan, version, 2)
    with pytest.raises(UserError, match="no shard 2: they are 0 to 1"):
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
def test_a_damaged_table_is_named(world, name, damage):
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

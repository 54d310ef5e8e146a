"""kill -9 at random moments: one final row per id, and no file is fetched twice."""

import random
import time

import pytest
from fetching import http, journal, rows, start
from synthetic import Misbehaving

from clip4vla.media import fetch
from clip4vla.media.fetch import fetch_shard


@pytest.mark.parametrize(
    ("kills", "clips"), [(3, 16), pytest.param(20, 70, marks=pytest.mark.slow)]
)
def test_killed_and_run_again(tmp_path, clip, kills, clips, monkeypatch):
    monkeypatch.setattr(fetch, "BACKOFF_SECONDS", (0.0, 0.01, 0.01))
    chance = random.Random(kills)
    kinds = ["slow", "slow", "404", "slow", "500x1", "slow", "truncated"]
    plan = rows(*(f"{kinds[n % len(kinds)]}/{n}.mp4" for n in range(clips)))
    calm = Misbehaving(clip.read_bytes())
    with calm.serving() as url:
        undisturbed = fetch_shard(plan, http(url), tmp_path / "calm")
    media, site = tmp_path / "m", Misbehaving(clip.read_bytes())
    with site.serving() as url:
        final = set()
        for _ in range(kills):
            kill_after(start(plan, media, url), media, chance)
            assert not final & set(site.asked), "asked for again after its final record"
            site.asked.clear()
            final = {f"/{file}" for file in settled(media, plan)}
        table = fetch_shard(plan, http(url), media)
        assert not final & set(site.asked)
    assert list(table.clip_id) == sorted(plan.clip_id)
    assert table.drop(columns="path").equals(undisturbed.drop(columns="path"))
    good = [record["clip_id"] for record in journal(media) if record["fetch"] == "ok"]
    assert len(good) == len(set(good)) == (table.fetch == "ok").sum()
    assert {path.suffix for path in media.iterdir()} <= {".mp4", ".jsonl", ""}
    assert not (media / ".part").exists()


def kill_after(process, media, chance):
    """kill -9 somewhere in the next few downloads."""
    there, more = len(journal(media)), chance.randint(1, 3)
    while len(journal(media)) < there + more and process.poll() is None:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.15))
    process.kill()
    process.communicate()


def settled(media, plan):
    """Files of clips that must not be asked for again: there, or gone for good."""
    file_of = dict(zip(plan.clip_id, plan.file, strict=True))
    return [file_of[r["clip_id"]] for r in journal(media) if r["fetch"] in ("ok", "gone")]

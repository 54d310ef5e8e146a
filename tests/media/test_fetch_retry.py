"""Temporary refusals: pauses, later attempts, and passes that carry files over."""

import os
import time

import pytest
from fetching import http, hurry, journal, rows
from synthetic import Misbehaving, make_clip

from clip4vla.media.fetch import fetch_shard

HOUR = 3600


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that can be put forward."""
    hurry(monkeypatch)
    real = time.time

    class Clock:
        ahead = 0.0

    monkeypatch.setattr(time, "time", lambda: real() + Clock.ahead)
    return Clock


def names(site):
    return {path.rsplit("/", 1)[1] for path in site.asked}


def test_later_means_after_the_pause(tmp_path, clip, clock):
    site = Misbehaving(clip.read_bytes())
    plan = rows("429x1/a.mp4", "ok/b.mp4", "404/c.mp4", "500x3/d.mp4")
    with site.serving() as url:

        def run():
            site.asked.clear()
            return list(fetch_shard(plan, http(url), tmp_path / "m").fetch)

        first = run()
        assert first[:4] == ["rate_limited", "ok", "gone", "network_transient"]
        clock.ahead = 11.9 * HOUR
        assert run() == first and not site.asked
        clock.ahead = 12.1 * HOUR
        assert run()[:4] == ["ok", "ok", "gone", "ok"]
        assert names(site) >= {"a.mp4", "d.mp4"} and not names(site) & {"b.mp4", "c.mp4"}
        clock.ahead = 48 * HOUR
        assert run()[:4] == ["ok", "ok", "gone", "ok"]
        assert not names(site) & {"a.mp4", "b.mp4", "c.mp4", "d.mp4"}


def test_three_attempts_now_or_one_later(tmp_path, clip, clock):
    """What could not be cut is tried at once, what nobody understands after the pause."""
    vp8 = make_clip(tmp_path / "a.webm", codecs=("libvpx", "libopus"), sound=("mono", 48000))
    site, other = Misbehaving(vp8.read_bytes()), Misbehaving(clip.read_bytes())
    for server, plan, status, attempts in (
        (site, rows("ok/a.webm", start=0.25, end=0.75), "cut_failed", 3),
        (other, rows("400/a.mp4"), "unknown", 1),
    ):
        media, clock.ahead = tmp_path / status, 0.0
        with server.serving() as url:
            for hours, in_all in ((0, attempts), (11.9, attempts), (12.1, 2 * attempts)):
                clock.ahead = hours * HOUR
                assert list(fetch_shard(plan, http(url), media).fetch) == [status]
                assert len(journal(media)) == in_all


def test_a_frozen_version_requests_lost_files_only(tmp_path, clip, clock):
    site = Misbehaving(clip.read_bytes())
    plan = rows("429x1/a.mp4", "ok/b.mp4")
    with site.serving() as url:
        table = fetch_shard(plan, http(url), tmp_path / "m")
        clock.ahead = 100 * HOUR
        os.unlink(table.path[1])
        site.asked.clear()
        assert fetch_shard(plan, http(url), tmp_path / "m", frozen=True).equals(table)
        assert names(site) == {"b.mp4"}


def test_retry_after_is_kept(tmp_path, clip, clock):
    site = Misbehaving(clip.read_bytes())
    site.retry_after = "7200"
    plan, network = rows("429x1/a.mp4", "ok/b.mp4"), tmp_path / "network"
    with site.serving() as url:

        def run(media, files=plan):
            site.asked.clear()
            return list(fetch_shard(files, http(url), tmp_path / media, network=network).fetch)

        assert run("m") == ["rate_limited", "rate_limited"]
        assert names(site) == {"a.mp4"}  # told to wait, it asks for nothing more
        assert run("other", rows("ok/x.mp4")) == ["rate_limited"]
        assert not site.asked  # nor does another shard
        clock.ahead = 1.9 * HOUR
        assert run("m") == ["rate_limited"] * 2 and not site.asked
        clock.ahead = 2.1 * HOUR
        assert run("m") == ["ok", "ok"]
        assert run("other", rows("ok/x.mp4")) == ["ok"]


def test_retry_after_is_kept_when_a_cut_is_refused(tmp_path, clip):
    """ffmpeg does not say what the server said, so the server is asked once more."""
    site = Misbehaving(clip.read_bytes())
    site.retry_after = "7200"
    plan = rows("429/a.mp4", "429/b.mp4", start=0.25, end=0.75)
    site.first_ok = True
    with site.serving() as url:
        table = fetch_shard(plan, http(url), tmp_path / "m")
    assert list(table.fetch) == ["rate_limited"] * 2
    assert "429" in table.detail[0] and names(site) == {"a.mp4"}


def test_a_short_retry_after_is_waited_for(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    site.retry_after = "1"
    with site.serving() as url:
        table = fetch_shard(rows("429x1/a.mp4", "ok/b.mp4"), http(url), tmp_path / "m")
    assert list(table.fetch) == ["ok", "ok"]


def test_a_refusal_stops_the_shards_that_come_after(tmp_path, clip, clock):
    site, network = Misbehaving(clip.read_bytes()), tmp_path / "network"
    with site.serving() as url:
        plan = rows(*(f"429/{n}.mp4" for n in range(8)))
        fetch_shard(plan, http(url), tmp_path / "a", network=network)
        site.asked.clear()
        table = fetch_shard(rows("ok/x.mp4"), http(url), tmp_path / "b", network=network)
        assert list(table.fetch) == ["rate_limited"] and not site.asked
        clock.ahead = 13 * HOUR
        table = fetch_shard(rows("ok/x.mp4"), http(url), tmp_path / "b", network=network)
        assert list(table.fetch) == ["ok"]


def test_a_new_pass_carries_over_what_was_fetched(tmp_path, clip, clock):
    site = Misbehaving(clip.read_bytes())
    plan = rows("429x1/a.mp4", "ok/b.mp4", "404/c.mp4", "ok/d.mp4")
    one, two = tmp_path / "one", tmp_path / "two"
    with site.serving() as url:
        first = fetch_shard(plan, http(url), one)
        os.unlink(first.path[3])  # lost since
        site.asked.clear()
        second = fetch_shard(plan, http(url), two, earlier=one)
        assert names(site) == {"a.mp4", "d.mp4"}
        assert list(second.fetch) == ["ok", "ok", "gone", "ok"]
        assert list(second.sha256[[1, 3]]) == list(first.sha256[[1, 3]])
        assert all(path.startswith(str(two)) for path in second.path if path)
        assert len(journal(one)) == 4  # the earlier pass stays as it was
        again = fetch_shard(plan, http(url), two, earlier=one)
        assert again.equals(second) and len(journal(two)) == 4


def test_other_times_are_another_request(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    with site.serving() as url:
        fetch_shard(rows("ok/a.mp4"), http(url), tmp_path / "one")
        site.asked.clear()
        fetch_shard(rows("ok/b.mp4"), http(url), tmp_path / "two", earlier=tmp_path / "one")
        assert names(site) == {"b.mp4"}


def test_one_clip_that_always_fails_does_not_stop_its_shard(tmp_path, clip):
    """The server answers, so the network is not down: the clip is to blame, not everything."""
    site = Misbehaving(clip.read_bytes())
    for kind in ("500", "truncated", "stall", "trickle"):
        with site.serving() as url:
            dataset = http(url, rate={"clip_seconds": 1})
            table = fetch_shard(rows(f"{kind}/a.mp4"), dataset, tmp_path / kind)
            assert list(table.fetch) == ["network_transient"]
            asked = len(site.asked)
            assert fetch_shard(rows(f"{kind}/a.mp4"), dataset, tmp_path / kind).equals(table)
            assert len(site.asked) == asked


def test_slow_cuts_leave_no_ffmpeg_behind(tmp_path, clip):
    import psutil

    site = Misbehaving(clip.read_bytes())
    with site.serving() as url:
        dataset = http(url, rate={"clip_seconds": 1})
        plan = rows("ok/b.mp4", "trickle/a.mp4", start=0.0, end=0.5)
        table = fetch_shard(plan, dataset, tmp_path / "m")
        assert table.fetch[1] == "network_transient"
    left = [child.name() for child in psutil.Process().children(recursive=True)]
    assert not [name for name in left if "ffmpeg" in name]

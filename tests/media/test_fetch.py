"""Fetching from servers that misbehave, from local folders, and after being killed."""

import json
import os
from pathlib import Path

import pytest
from fetching import http, hurry, journal, rows
from synthetic import Misbehaving, make_clip

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.config.data import Dataset
from clip4vla.media import fetch
from clip4vla.media.decode import decode_audio, decode_frames
from clip4vla.media.download import Downloader
from clip4vla.media.fetch import FETCH_COLUMNS, fetch_shard
from clip4vla.media.journal import Journal
from clip4vla.media.probe import probe_file
from clip4vla.media.status import FetchStatus


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    hurry(monkeypatch)


def local(media):
    return Dataset(reader="demo", annotations=".", source="local", media=media)


def test_every_misbehaviour_has_its_status(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    wanted = {
        "ok": "ok", "404": "gone", "410": "gone", "403": "rate_limited", "401": "login_or_bot_check", "429": "rate_limited",
        "451": "geo_blocked", "500x1": "ok", "500": "network_transient",
        "truncated": "network_transient", "hangup": "network_transient",
        "html": "format_unavailable", "playlist": "format_unavailable", "exe": "ok",
        "redirect": "format_unavailable", "moved": "ok", "reset": "network_transient",
        "longer": "network_transient", "shorter": "ok", "empty": "rate_limited",
        "stall": "network_transient", "trickle": "network_transient",
    }  # fmt: skip
    gentle = {"clip_seconds": 1.5}
    with site.serving() as url:
        plan = rows(*(f"{kind}/x.mp4" for kind in wanted))
        table = fetch_shard(plan, http(url, rate=gentle), tmp_path / "m")
        found = dict(zip(wanted, table.set_index("clip_id").loc[
            [f"clip_{n}" for n in range(len(wanted))]].fetch, strict=True))  # fmt: skip
        asked = [path.split("/")[1] for path in site.asked]
    assert {kind: found[kind] for kind in wanted if kind != "exe"} == {
        kind: status for kind, status in wanted.items() if kind != "exe"
    }
    assert found["exe"] in ("ok", "format_unavailable")  # its name counts for nothing
    assert asked.count("404") == 1 and asked.count("500") == 3 and asked.count("truncated") <= 6
    assert asked.count("redirect") < 100
    assert probe_file(tmp_path / "m" / "clip_18.mp4").video == "decode_error"  # "shorter": cut off
    names = {path.name for path in (tmp_path / "m").iterdir()}
    stored = {Path(path).name for path in table.path if path}
    assert names == stored | {"journal.jsonl", ".lock", ".tools"}
    assert all(name.startswith("clip_") and name.endswith(".mp4") for name in stored)
    assert list(table.columns) == list(FETCH_COLUMNS)
    assert (tmp_path / "m" / "clip_0.mp4").read_bytes() == clip.read_bytes()


def test_nothing_is_fetched_twice_and_tables_are_equal(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    plan = rows("ok/a.mp4", "404/b.mp4", "500/c.mp4", "ok/d.mp4")
    with site.serving() as url:
        first = fetch_shard(plan, http(url), tmp_path / "m")
        asked = len(site.asked)
        again = fetch_shard(plan, http(url), tmp_path / "m")
        assert len(site.asked) == asked
        assert again.equals(first)
        os.unlink(first.path[0])  # a lost file is fetched again, and only that
        assert fetch_shard(plan, http(url), tmp_path / "m").equals(first)
        assert {path.split("/")[2] for path in site.asked[asked:]} == {"a.mp4"}


def test_a_killed_run_resumes(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    media = tmp_path / "m"
    plan = rows("ok/a.mp4", "ok/b.mp4", "ok/c.mp4")
    with site.serving() as url:
        first = fetch_shard(plan, http(url), media)
        journal = media / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        for cut in range(len(lines[-1])):  # torn anywhere in the last line
            journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
            kept = Journal(media)
            assert len(kept.attempts()) == 2
        (media / ".part").mkdir()
        (media / ".part" / "clip_2.mp4.part").write_bytes(b"half")
        site.asked.clear()
        assert fetch_shard(plan, http(url), media).equals(first)
        assert {path for path in site.asked} == {"/ok/c.mp4"}
    ids = [json.loads(line)["clip_id"] for line in journal.read_text().splitlines()]
    assert sorted(ids) == ["clip_0", "clip_1", "clip_2"]
    assert not (media / ".part").exists()


def test_a_server_that_is_down_gives_no_clip_a_status(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    with site.serving() as url:
        pass
    plan = rows("ok/a.mp4", "ok/b.mp4")
    for _ in range(2):
        with pytest.raises(RetryLater, match="cannot be reached") as caught:
            fetch_shard(plan, http(url), tmp_path / "m")
        assert len(str(caught.value).splitlines()) == 1
        assert (tmp_path / "m" / "journal.jsonl").read_text() == ""


def test_an_outage_in_the_middle_keeps_what_is_there(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(fetch, "OUTAGE", 3)
    site = Misbehaving(clip.read_bytes())
    with site.serving() as url, pytest.raises(RetryLater):
        plan = rows("ok/a.mp4", *(f"500/{n}.mp4" for n in range(5)))
        fetch_shard(plan, http(url), tmp_path / "m")
    records = (tmp_path / "m" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(record)["clip_id"] for record in records] == ["clip_0"]


def test_a_server_that_refuses_is_left_alone(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    with site.serving() as url:
        table = fetch_shard(rows(*(f"429/{n}.mp4" for n in range(9))), http(url), tmp_path / "m")
    assert set(table.fetch) == {"rate_limited"}
    assert len({path for path in site.asked}) == fetch.BREAKER


@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_refuses_everyone_costs_no_clip(tmp_path, clip, code):
    site, plan = Misbehaving(clip.read_bytes()), rows(*(f"{code}/{n}.mp4" for n in range(9)))
    with site.serving() as url:
        table = fetch_shard(plan, http(url), tmp_path / "m")
        assert {FetchStatus(status).retry for status in table.fetch} == {"later"}
        assert len(set(site.asked)) == fetch.BREAKER
        asked = set(site.asked)
        Journal(tmp_path / "m").end_pauses()
        site.asked.clear()
        fetch_shard(plan, http(url), tmp_path / "m")
        assert len(set(site.asked)) == fetch.BREAKER  # first those that nobody asked for yet
        assert len(asked & set(site.asked)) == 1


@pytest.mark.parametrize("code", [403, 429])
def test_a_server_that_refuses_ffmpeg_is_left_alone_too(tmp_path, clip, code):
    site = Misbehaving(clip.read_bytes())
    site.to_ffmpeg = code
    plan = rows(*(f"ok/{n}.mp4" for n in range(9)), start=0.25, end=0.75)
    with site.serving() as url:
        table = fetch_shard(plan, http(url), tmp_path / "m")
    assert set(table.fetch) == {"rate_limited"}
    assert len(set(site.asked)) == fetch.BREAKER


def test_a_proxy_for_the_internet_is_not_asked_for_loopback(tmp_path, clip, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    site = Misbehaving(clip.read_bytes())
    with site.serving() as url:
        assert list(fetch_shard(rows("ok/a.mp4"), http(url), tmp_path / "m").fetch) == ["ok"]


def test_local_files_are_used_where_they_are(tmp_path, clip):
    media = tmp_path / "mine"
    (media / "deep").mkdir(parents=True)
    (media / "deep" / "a.mp4").write_bytes(clip.read_bytes())
    os.mkfifo(media / "fifo.mp4")
    plan = rows("deep/a.mp4", "none.mp4", "deep", "fifo.mp4")
    table = fetch_shard(plan, local(media), tmp_path / "m")
    assert list(table.fetch) == ["ok", "gone", "gone", "gone"]
    assert table.path[0] == str(media / "deep" / "a.mp4")
    assert table.bytes[0] == clip.stat().st_size and len(table.sha256[0]) == 64
    assert {path.name for path in (tmp_path / "m").iterdir()} == {".lock"}


@pytest.mark.parametrize("file", ["../secret.mp4", "link.mp4", "out/secret.mp4"])
def test_paths_that_lead_out_of_the_media_folder_are_refused(tmp_path, file):
    media = tmp_path / "mine"
    media.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (media / "link.mp4").symlink_to("../secret.mp4")
    (media / "out").symlink_to("..")
    with pytest.raises(UserError, match="leads out of"):
        fetch_shard(rows(file), local(media), tmp_path / "m")


def test_a_local_source_is_cut(tmp_path):
    media = tmp_path / "mine"
    media.mkdir()
    make_clip(media / "long.mp4", seconds=4)
    plan = rows("long.mp4", start=1.0, end=3.0)
    one = fetch_shard(plan, local(media), tmp_path / "m")
    two = fetch_shard(plan, local(media), tmp_path / "n")
    assert one.fetch[0] == "ok" and one.sha256[0] == two.sha256[0]
    frames = [round(frame.mean() / 10) for frame in decode_frames(one.path[0], 2, 2.0)]
    assert frames == [8, 12, 16, 20]
    samples, rate = decode_audio(one.path[0])
    assert samples.shape[1] / rate == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("suffix", "kind", "codecs"),
    [("mp4", "mp4", ("mpeg4", "aac")), ("mkv", "x-matroska", ("mpeg4", "aac")),
     ("webm", "webm", ("libvpx-vp9", "libopus")), ("avi", "x-msvideo", ("mpeg4", "libmp3lame"))],
)  # fmt: skip
@pytest.mark.parametrize("in_parts", [True, False])  # whether the server heeds Range
def test_a_remote_source_is_cut_at_its_times_whatever_its_container(
    tmp_path, suffix, kind, codecs, in_parts
):
    long = tmp_path / f"long.{suffix}"
    make_clip(long, seconds=4, codecs=codecs, sound=("mono", 48000))
    site = Misbehaving(long.read_bytes())
    site.content_type, site.in_parts = f"video/{kind}", in_parts
    with site.serving() as url:
        plan = rows(f"ok/a.{suffix}", start=0.75, end=2.75)  # a key frame is at 0.5 s
        (clip,) = fetch_shard(plan, http(url), tmp_path / "m").itertuples()
    assert clip.fetch == "ok" and clip.path.endswith("clip_0.mp4")
    frames = [frame.mean() / 10 for frame in decode_frames(clip.path, 2, 2.0)]
    # AVI has no time stamps: one picture early is as good as it gets.
    assert frames == pytest.approx([6, 10, 14, 18], abs=1.3 if suffix == "avi" else 0.5)
    samples, rate = decode_audio(clip.path)
    assert samples.shape[1] / rate == pytest.approx(2.0, abs=0.2)


def test_a_connection_that_breaks_in_a_cut_leaves_no_half_clip(tmp_path):
    long = make_clip(tmp_path / "long.mkv", seconds=8, size=(320, 240))  # more than a buffer
    site = Misbehaving(long.read_bytes())
    site.content_type, site.first_ok = "video/x-matroska", True
    with site.serving() as url:
        plan = rows("truncated/a.mkv", start=1.0, end=7.0)
        table = fetch_shard(plan, http(url), tmp_path / "m")
    assert list(table.fetch) == ["network_transient"]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("in_parts", [True, False])
def test_a_range_after_the_end_of_a_remote_source_is_requested_once(tmp_path, suffix, in_parts):
    site = Misbehaving(make_clip(tmp_path / f"long.{suffix}", seconds=4).read_bytes())
    site.in_parts = in_parts
    plan = rows(f"ok/a.{suffix}", f"ok/b.{suffix}", start=6.0, end=7.0)
    with site.serving() as url:
        table = fetch_shard(plan, http(url), tmp_path / "m")
        assert list(table.fetch) == ["cut_failed"] * 2
        assert "the source has nothing in the 1.0 s" in table.detail[0]
        assert len(journal(tmp_path / "m")) == 2
        asked = len(site.asked)
        Journal(tmp_path / "m").end_pauses()
        assert fetch_shard(plan, http(url), tmp_path / "m").equals(table)
        next_pass = fetch_shard(plan, http(url), tmp_path / "next", earlier=tmp_path / "m")
        assert next_pass.equals(table) and len(site.asked) == asked


def test_codecs_that_mp4_cannot_hold_are_not_cut(tmp_path):
    site = Misbehaving(make_clip(tmp_path / "a.webm", codecs=("libvpx", "libopus"),
                                 sound=("mono", 48000)).read_bytes())  # fmt: skip
    site.content_type = "video/webm"
    with site.serving() as url:
        table = fetch_shard(rows("ok/a.webm", start=0.25, end=0.75), http(url), tmp_path / "m")
    assert list(table.fetch) == ["cut_failed"] and "mp4 has no place for" in table.detail[0]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"source": "local"}, "media: not set"),
        ({"source": "local", "media": "nowhere"}, "no folder nowhere"),
        ({"source": "http"}, "give an address with"),
        ({"source": "http", "url": "http://x/y.mp4"}, "give an address with"),
        ({"source": "http", "url": "file:///{file}"}, "begin it with http"),
        ({"source": "youtube", "cookies": "nowhere"}, "no file nowhere"),
    ],
)
def test_an_invalid_source_is_an_error_that_the_user_can_fix(tmp_path, more, what):
    dataset = Dataset(reader="demo", annotations=".", **more)
    with pytest.raises(UserError, match=what):
        fetch_shard(rows("a.mp4"), dataset, tmp_path / "m")


def test_an_empty_shard_is_an_empty_table(tmp_path):
    table = fetch_shard(rows(), http("http://127.0.0.1:9"), tmp_path / "m")
    assert len(table) == 0 and list(table.columns) == list(FETCH_COLUMNS)


def test_cookies_are_read_and_never_written(tmp_path, monkeypatch):
    path = tmp_path / "cookies.txt"
    line = ".youtube.com\tTRUE\t/\tTRUE\t4102444800\tname\tvalue\n"
    path.write_text("# Netscape HTTP Cookie File\n\n" + line)
    path.chmod(0o400)
    before = (path.read_text(), path.stat().st_mtime_ns)
    dataset = Dataset(reader="demo", annotations=".", source="youtube", cookies=path)
    with Downloader(tmp_path / "m", dataset) as downloader:
        (cookie,) = downloader.youtube_dl.cookiejar
        assert (cookie.domain, cookie.value) == (".youtube.com", "value")
        assert downloader.youtube_dl.params["sleep_interval"] == 2.0
        assert downloader.youtube_dl.params["sleep_interval_requests"] == 1.0
    assert (path.read_text(), path.stat().st_mtime_ns) == before
    path.chmod(0o600)
    path.write_text("no cookies here\n")
    with pytest.raises(UserError, match="not in Netscape's format"):
        Downloader(tmp_path / "m", dataset)
    http_dataset = http("http://127.0.0.1:9", cookies=path)
    with Downloader(tmp_path / "m", http_dataset) as downloader:
        assert not list(downloader.youtube_dl.cookiejar)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (".youtube.com TRUE / TRUE 1893456000 name SECRET", "line 3 must have"),
        (".youtube.com\tTRUE\t/\tTRUE\tSECRET\tname\tSECRET", "line 3 must have"),
        (".youtube.com\tFALSE\t/\tTRUE\t0\tname\tSECRET", "line 3 must have"),
        ("#HttpOnly_.youtube.com\tTRUE\tSECRET", "line 3 must have"),
        ("$SECRET", "line 3 must have"),
        ("# SECRET", "it holds no cookie"),
    ],
)
def test_no_message_has_a_cookie_in_it(tmp_path, capfd, recwarn, line, why):
    path = tmp_path / "cookies.txt"
    path.write_text(f"# Netscape HTTP Cookie File\n\n{line}\n")
    dataset = Dataset(reader="demo", annotations=".", source="youtube", cookies=path)
    with pytest.raises(UserError) as caught:
        Downloader(tmp_path / "m", dataset)
    assert why in str(caught.value) and str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    said = [str(caught.value), *capfd.readouterr(), *(str(one.message) for one in recwarn)]
    assert "SECRET" not in " ".join(said)


def test_marks_blank_lines_and_session_cookies_are_fine(tmp_path):
    path = tmp_path / "cookies.txt"
    path.write_text(
        "# HTTP Cookie File\r\n# by hand\r\n\r\n"
        "#HttpOnly_.youtube.com\tTRUE\t/\tTRUE\t4102444800.5\ta\tx\r\n"
        "www.youtube.com\tFALSE\t/\tFALSE\t0\tb\ty\nyoutube.com\tFALSE\t/\tFALSE\t\tc\t\n"
    )
    dataset = Dataset(reader="demo", annotations=".", source="youtube", cookies=path)
    with Downloader(tmp_path / "m", dataset) as downloader:
        assert {cookie.name for cookie in downloader.youtube_dl.cookiejar} == {"a", "b", "c"}

"""Fetching from YouTube as far as it can be tested without a network."""

import os

import pytest
from fetching import journal, rows
from synthetic import NAMING, Misbehaving, make_clip

from clip4vla.config.data import Dataset, Rate
from clip4vla.media import download
from clip4vla.media.download import Downloader
from clip4vla.media.fetch import fetch_shard
from clip4vla.media.probe import probe_file

YOUTUBE = Dataset(reader="demo", annotations=".", source="youtube")
RUNTIME = "[youtube] No supported JavaScript runtime could be found"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("PATH", "DENO_DIR", "DENO_NO_UPDATE_CHECK"):  # changed by the downloader
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("DENO_DIR")


def test_yt_dlp_has_a_runtime_and_its_scripts_and_fetches_none(tmp_path):
    with Downloader(tmp_path / "m", YOUTUBE) as downloader:
        runtime = downloader.youtube_dl._js_runtimes["deno"].info
        assert runtime is not None and runtime.supported
        assert downloader.youtube_dl.params["remote_components"] == set()
    import yt_dlp_ejs.yt.solver  # the scripts that the runtime runs
    from yt_dlp.extractor.youtube.jsc._builtin import vendor

    assert yt_dlp_ejs.version == vendor.VERSION
    assert os.environ["DENO_DIR"].startswith(str(tmp_path))


def test_warnings_are_in_the_journal(tmp_path, monkeypatch):
    """One about the set-up is given once, and holds for every clip after it."""

    def look_up(downloader, address):
        log = downloader.log
        if not log.lasting:
            log.warning(RUNTIME)
        clip = address[-1]
        log.warning(f"[youtube] source_{clip}: Some formats are missing")
        raise RuntimeError(f"[youtube] source_{clip}: No video formats found!")

    monkeypatch.setattr(Downloader, "_look_up", look_up)
    table = fetch_shard(rows("a", "b"), YOUTUBE, tmp_path / "m")
    assert list(table.fetch) == ["format_unavailable"] * 2
    for clip, record in enumerate(journal(tmp_path / "m")):
        about = f"[youtube] source_{clip}"
        assert record["detail"] == (
            f"{about}: No video formats found!; yt-dlp warned: {RUNTIME}; "
            f"yt-dlp warned: {about}: Some formats are missing"
        )


@pytest.fixture
def two_formats(tmp_path, monkeypatch):
    """A server with pictures and sound apart, and yt-dlp finding both for any video."""
    site, sound = (
        Misbehaving(make_clip(tmp_path / f"{name}.mp4", seconds=4, **more).read_bytes())
        for name, more in (("pictures", {"sound": None}), ("sound", {"pictures": False}))
    )

    def found(youtube_dl, address):
        track = {"protocol": "https", "height": 16, "width": 32}
        urls = {"v": f"{site.url}/ok/v.mp4", "a": f"{sound.url}/ok/a.m4a"}
        video = {
            "format_id": "1",
            "ext": "mp4",
            "vcodec": "mp4v",
            "acodec": "none",
            "url": urls["v"],
        }
        audio = {
            "format_id": "2",
            "ext": "m4a",
            "vcodec": "none",
            "acodec": "mp4a",
            "url": urls["a"],
        }
        more = {"extractor": "youtube", "extractor_key": "Youtube", "webpage_url": address}
        return {
            "id": "x",
            "title": "x",
            "duration": 4,
            "formats": [track | audio, track | video],
        } | more

    monkeypatch.setattr(download, "_of_youtube", found)
    monkeypatch.setattr("clip4vla.media.ytdlp.SOCKET_SECONDS", 2)
    with site.serving() as site.url, sound.serving() as sound.url:
        yield site, sound


QUICK = YOUTUBE.model_copy(update={"rate": Rate(clip_pause=0, request_pause=0)})


def test_a_clip_of_two_formats_is_cut(tmp_path, two_formats):
    (clip,) = fetch_shard(rows("a", start=1.0, end=3.0), QUICK, tmp_path / "m").itertuples()
    assert (clip.fetch, clip.detail) == ("ok", "")
    probe = probe_file(clip.path)
    assert (probe.video, probe.audio) == ("ok", "ok")
    assert probe.duration == pytest.approx(2.0, abs=0.2)


def test_a_whole_video_of_two_formats_is_joined(tmp_path, two_formats):
    (clip,) = fetch_shard(rows("a"), QUICK, tmp_path / "m").itertuples()
    assert clip.fetch == "ok"
    probe = probe_file(clip.path)
    assert (probe.video, probe.audio) == ("ok", "ok") and probe.duration == pytest.approx(
        4, abs=0.2
    )


def test_a_range_after_the_end_is_final(tmp_path, two_formats):
    table = fetch_shard(rows("a", start=5.0, end=6.0), QUICK, tmp_path / "m")
    assert list(table.fetch) == ["cut_failed"] and len(journal(tmp_path / "m")) == 1


def test_a_manifest_that_was_downloaded_is_not_followed(tmp_path, two_formats):
    """yt-dlp joins two files: each is a file, not the name of another."""
    pictures, _ = two_formats
    (tmp_path / "m").mkdir()
    named = make_clip(tmp_path / "m" / "named.ts", seconds=4, sound=None)
    assert pictures.body and named.is_file()
    pictures.body = NAMING["dash"].format(other="../named.ts").encode()
    assert list(fetch_shard(rows("a"), QUICK, tmp_path / "m").fetch) == ["cut_failed"]


def test_a_manifest_in_place_of_a_format_is_not_followed(tmp_path, two_formats):
    pictures, sound = two_formats
    asked = f"{sound.url}/ok/named.mp4"
    pictures.body = NAMING["dash"].format(other=asked).encode()
    table = fetch_shard(rows("a", start=1.0, end=3.0), QUICK, tmp_path / "m")
    assert list(table.fetch) == ["cut_failed"] and "/ok/named.mp4" not in sound.asked

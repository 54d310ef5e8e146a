"""Playlists, manifests and scripts under a clip's name are never followed."""

import subprocess

import pytest
from fetching import http, hurry, journal, rows
from synthetic import NAMING, Misbehaving, make_clip

from clip4vla.config.data import Dataset
from clip4vla.media.containers import CONTAINERS, ffmpeg_input
from clip4vla.media.fetch import fetch_shard
from clip4vla.media.tools import ffmpeg


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("long") / "long.ts", seconds=4)


@pytest.mark.parametrize("kind", NAMING)
def test_a_local_file_that_names_another_is_not_followed(tmp_path, long, kind):
    media = tmp_path / "mine"
    for folder in ("theirs", "secret"):
        (media / folder).mkdir(parents=True)
    (media / "secret" / "long.ts").write_bytes(long.read_bytes())
    (media / "theirs" / "clip.mp4").write_text(NAMING[kind].format(other="../secret/long.ts"))
    dataset = Dataset(reader="demo", annotations=".", source="local", media=media)
    plan = rows("theirs/clip.mp4", start=0.5, end=1.5)
    assert list(fetch_shard(plan, dataset, tmp_path / "m").fetch) == ["cut_failed"]


@pytest.mark.parametrize("kind", NAMING)
@pytest.mark.parametrize("way", ["at once", "second", "behind a redirect"])
def test_a_playlist_in_place_of_a_clip_is_not_followed(tmp_path, clip, long, kind, way):
    """Also when it does so to ffmpeg only, after a clip to whoever asked first."""
    site, pages = Misbehaving(clip.read_bytes()), Misbehaving(clip.read_bytes())
    named = Misbehaving(long.read_bytes())
    site.first_ok = way != "at once"
    with named.serving() as elsewhere, pages.serving() as page, site.serving() as url:
        site.text = pages.text = NAMING[kind].format(other=f"{elsewhere}/ok/long.ts").encode()
        site.leads_to["away"] = f"{page}/text/x.mp4"
        file = ("away" if way == "behind a redirect" else "text") + "/clip.mp4"
        fetch_shard(rows(file, start=0.25, end=0.75), http(url), tmp_path / "m")
    first = journal(tmp_path / "m")[0]
    assert first["fetch"] == ("format_unavailable" if way == "at once" else "cut_failed")
    assert not named.asked and bool(pages.asked) == (way == "behind a redirect")


def test_both_libraries_know_every_container_of_the_list(clip):
    """ffmpeg reads a clip with the list, and none of its own demuxers for lists is on it."""
    command = [ffmpeg(), "-v", "error", *ffmpeg_input("file"), "-i", f"file:{clip}", "-f", "null"]
    assert not subprocess.run([*command, "-"], check=False).returncode
    names = set(CONTAINERS.split(","))
    assert not names & {"hls", "dash", "concat", "sdp", "imf", "rtp", "rtsp", "image2", "lavfi"}

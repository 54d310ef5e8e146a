"""A full disk: one clear line, no partial file, and fetched files stay."""

import os
import subprocess

import pytest
from fetching import http, journal, rows, start
from synthetic import Misbehaving, make_clip

from clip4vla.media.fetch import fetch_shard


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A clip of about 90 kB."""
    path = tmp_path_factory.mktemp("large") / "large.wav"
    return make_clip(path, pictures=False, sound=("mono", 44100), codecs=(None, "pcm_s16le"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk here; the file size limit stands in for it")
    yield disk
    subprocess.run(["umount", disk], check=True)


def resumes_after(plan, media, url, site, failed):
    """A failed process left whole files only; the next run asks for the rest."""
    _, errors = failed.communicate()
    assert failed.returncode == 78
    (line,) = [line for line in errors.splitlines() if line.startswith("clip4vla:")]
    assert "Traceback" not in errors
    there = {record["clip_id"]: record["bytes"] for record in journal(media)}
    stored = {path.stem: path.stat().st_size for path in media.glob("clip_*")}
    assert stored == there and set(stored.values()) == {len(site.body)}
    assert not (media / ".part").exists()
    site.asked.clear()
    return line, there


def test_a_full_disk(small_disk, large):
    site, media = Misbehaving(large.read_bytes()), small_disk / "m"
    plan = rows(*(f"ok/{n}.mp4" for n in range(5)))
    with site.serving() as url:
        line, there = resumes_after(plan, media, url, site, start(plan, media, url))
        assert "the disk is full. Fix: free some space and run the same command again" in line
        assert 1 <= len(there) < 5
        subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
        table = fetch_shard(plan, http(url), media)
        assert (table.fetch == "ok").all()
        assert not {f"/ok/{clip[5:]}.mp4" for clip in there} & set(site.asked)


@pytest.mark.parametrize("times", [(None, None), (0.0, 0.8)], ids=["whole", "cut"])
def test_a_limit_on_the_size_of_files(tmp_path, large, clip, times):
    """What a user without any right can test: the kernel refuses writes beyond 50 kB."""
    site, media = Misbehaving(clip.read_bytes()), tmp_path / "m"
    begin, end = times
    small = rows("ok/0.mp4", start=begin, end=end)
    plan = rows("ok/0.mp4", "ok/1.mp4", start=begin, end=end)
    with site.serving() as url:
        fetch_shard(small, http(url), media)
        before = {path.name for path in media.glob("clip_*")}
        site.body = large.read_bytes()
        failed = start(plan, media, url, largest=50_000)
        _, errors = failed.communicate()
        assert failed.returncode == 78 and "Traceback" not in errors
        assert "the file would be too large" in errors
        assert {path.name for path in media.glob("clip_*")} == before
        assert not (media / ".part").exists()
        site.asked.clear()
        table = fetch_shard(plan, http(url), media)
    assert (table.fetch == "ok").all() and "/ok/0.mp4" not in site.asked

"""Fetching from YouTube as far as it can be seen without a network."""

import os

import pytest
from fetching import journal, rows

from clip4vla.config.data import Dataset
from clip4vla.media.download import Downloader
from clip4vla.media.fetch import fetch_shard

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


def test_warnings_stand_in_the_journal(tmp_path, monkeypatch):
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

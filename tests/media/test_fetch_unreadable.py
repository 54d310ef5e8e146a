"""Local files that cannot be read, or on which the cutter hangs."""

import errno
import os
import shutil

from fetching import rows

from clip4vla.config.data import Dataset
from clip4vla.media.fetch import fetch_shard
from clip4vla.media.isolated import Crashed


def local(media):
    return Dataset(reader="demo", annotations=".", source="local", media=media)


def test_a_local_file_that_cannot_be_read_costs_no_other_clip(tmp_path, clip, monkeypatch):
    """A link to itself, and a file of someone else."""
    media = tmp_path / "media"
    media.mkdir()
    shutil.copy(clip, media / "good.mp4")
    shutil.copy(clip, media / "closed.mp4")
    (media / "loop.mp4").symlink_to("loop.mp4")
    real = os.stat

    def stat(path, *arguments, **options):
        if str(path).endswith("closed.mp4"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr("clip4vla.media.local.os.stat", stat)  # root may read everything
    plan = rows("good.mp4", "loop.mp4", "closed.mp4")
    table = fetch_shard(plan, local(media), tmp_path / "m").set_index("clip_id")
    assert list(table.fetch) == ["ok", "gone", "gone"]
    assert "Too many levels" in table.detail["clip_1"]
    assert "Permission denied" in table.detail["clip_2"]


def test_a_local_cut_is_bounded(tmp_path, clip, monkeypatch):
    media = tmp_path / "media"
    media.mkdir()
    shutil.copy(clip, media / "a.mp4")

    def hang(command, seconds):
        assert seconds >= 120
        raise Crashed(f"no answer in {seconds:.0f} s")

    monkeypatch.setattr("clip4vla.media.cut.run_bounded", hang)
    table = fetch_shard(rows("a.mp4", start=0, end=1), local(media), tmp_path / "m")
    assert table.fetch[0] == "cut_failed" and "no answer" in table.detail[0]

"""A cut has the tracks of its source within the range, or it fails."""

import subprocess

import pytest
from fetching import rows
from synthetic import make_clip

from clip4vla.config.data import Dataset
from clip4vla.media import cut
from clip4vla.media.cut import CutFailed, check_cut, check_tracks, most_bytes
from clip4vla.media.fetch import fetch_shard
from clip4vla.media.tools import ffmpeg


def cut_locally(folder, source, start, end):
    dataset = Dataset(reader="demo", annotations=".", source="local", media=source.parent)
    plan = rows(source.name, start=start, end=end)
    (row,) = fetch_shard(plan, dataset, folder / "m").itertuples()
    return row


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_a_range_after_the_end_is_not_cut(tmp_path, suffix):
    sound = "libmp3lame" if suffix == "avi" else "aac"
    long = make_clip(
        tmp_path / f"long.{suffix}", seconds=4, codecs=("mpeg4", sound), sound=("mono", 48000)
    )
    assert cut_locally(tmp_path, long, 1.1, 2.1).fetch == "ok"
    row = cut_locally(tmp_path, long, 6.0, 7.0)
    assert (row.fetch, row.path) == ("cut_failed", "")
    assert row.detail == f"cut failed: {long}: the source has nothing in the 1.0 s of the clip"


def test_a_range_after_the_end_is_not_cut_even_if_the_last_pictures_are_long(tmp_path):
    """With one key frame, at the beginning, the cut holds all pictures that lie before its clip."""
    long, source = tmp_path / "long.mp4", make_clip(tmp_path / "source.mp4", seconds=4)
    command = [ffmpeg(), "-v", "error", "-i", source, "-c:v", "libx264", "-sc_threshold", "0", long]
    subprocess.run(command, check=True)
    row = cut_locally(tmp_path, long, 50.0, 51.0)
    assert row.detail == f"cut failed: {long}: the source has nothing in the 1.0 s of the clip"


def test_a_stream_copy_that_loses_the_pictures_is_refused(tmp_path):
    """Transport streams are not cut at a key frame: what comes before the next one is lost."""
    long = make_clip(tmp_path / "long.ts", seconds=4, sound=("mono", 48000))
    row = cut_locally(tmp_path, long, 3.9, 4.9)
    assert row.fetch == "cut_failed" and "no video in" in row.detail


def test_tracks_that_the_source_lacks_are_not_required(tmp_path):
    silent = make_clip(tmp_path / "silent.mp4", seconds=4, sound=None)
    assert cut_locally(tmp_path, silent, 1.0, 2.0).fetch == "ok"
    unseen = make_clip(tmp_path / "unseen.mp4", seconds=4, pictures=False)
    assert cut_locally(tmp_path, unseen, 1.0, 2.0).fetch == "ok"


def test_a_clip_from_a_silent_part_is_a_clip(tmp_path):
    """Of sound, all packets in the range are copied: where there are none, there are none."""
    source = tmp_path / "mostly_silent.mp4"
    sound, silent = make_clip(tmp_path / "a.mp4", seconds=1), tmp_path / "b.mp4"
    make_clip(silent, seconds=4, sound=None)
    command = [ffmpeg(), "-v", "error", "-i", silent, "-i", sound, "-map", "0:v", "-map", "1:a"]
    subprocess.run([*command, "-c", "copy", source], check=True)
    assert cut_locally(tmp_path, source, 2.0, 3.0).fetch == "ok"


def test_both_formats_of_a_video_must_have_been_cut(tmp_path):
    long = make_clip(tmp_path / "long.mp4", seconds=4, sound=None)
    with pytest.raises(CutFailed, match="no audio in"):
        check_tracks(long, ["video", "audio"], 4.0)
    check_tracks(long, ["video"], 4.0)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("0, 0, 0, 1, 9, 0x0", True),  # at the beginning
        ("0, -1, -1, 2, 9, 0x0", True),  # still lasts there
        ("0, -1, -1, 1, 9, 0x0", False),  # ends as the clip begins
        ("0, 19, 19, 1, 9, 0x0", True),  # the last before the end of 2 s
        ("0, 20, 20, 1, 9, 0x0", False),
        ("0, 0, 0, 1, 0, 0x0", False),  # without a byte
        ("0, 0, NOPTS, 1, 9, 0x0", False),
        ("torn", False),
    ],
)
def test_packets_within_a_clip_of_two_seconds(line, kept):
    lines = ["#software: x", "#tb 0: 1/10", "#media_type 0: video", line]
    found = cut._listed(lines, 2.0)
    assert found.kinds == {"video"} and found.within == ({"video"} if kept else set())


def test_a_cut_that_is_longer_than_its_clip_is_refused(tmp_path):
    path = make_clip(tmp_path / "a.mp4", seconds=3)
    most = most_bytes(3)
    check_cut(path, 2.5, most)
    check_cut(path, 10.0, most)  # the source ended before the clip did
    with pytest.raises(CutFailed, match="the file has 3.0 s, the clip 1.5 s"):
        check_cut(path, 1.5, most)
    with pytest.raises(CutFailed, match="more than 100 bytes"):
        check_cut(path, 3.0, 100)
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(CutFailed, match="no media file"):
        check_cut(tmp_path / "b.mp4", 1.0, most)

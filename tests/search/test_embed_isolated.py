"""`clip4vla embed` decodes in separate processes, block by block, and with limits."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from embed_files import PATHS, run

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.media.decode import decode_audio
from clip4vla.search import files, media
from clip4vla.search.media import audio_clips


@pytest.mark.parametrize("kind", ["audio", "video"])
@pytest.mark.parametrize("options", [[], ["--every", "4"]])
def test_a_file_that_kills_the_decoder_fails_alone(
    weights, tmp_path, capsys, monkeypatch, kind, options
):
    """It crashes at once or after some windows; what it gave before is kept."""
    real, bad = media.DECODERS[kind], tmp_path / "bad.mp4"
    shutil.copy(PATHS[1], bad)

    def fragile(path, **given):
        for number, clip in enumerate(real(path, **given)):
            if path == bad and number == bool(options):
                os.abort()
            yield clip

    monkeypatch.setitem(media.DECODERS, kind, fragile)
    out = tmp_path / "out.parquet"
    assert run(kind, weights, PATHS[0], bad, PATHS[1], "--out", out, *options) == 0
    assert f"{bad}: the process died" in capsys.readouterr().err
    table = pd.read_parquet(out)
    failed = table[table.input == str(bad)]
    assert failed.status.tolist() == ["ok"] * bool(options) + ["decode_error"]
    assert failed.start.tolist()[-1] == (4 if options else 0)
    others = table[table.input != str(bad)]
    assert set(others.input) == {str(PATHS[0]), str(PATHS[1])} and set(others.status) == {"ok"}
    assert run(kind, weights, bad, "--out", out) == (0 if options else 78)


def test_speed_changes_no_bit(weights, tmp_path, monkeypatch):
    """Vectors depend on their company in the last bits: it must not depend on the processes."""
    import time

    real = media.DECODERS["video"]

    def slow(path, **given):
        for clip in real(path, **given):
            time.sleep(0.3 if path == PATHS[0] else 0)
            yield clip

    tables = []
    for options in ([], ["--every", "2"]):
        for reader, threads in ((real, 1), (real, 2), (slow, 2)):
            monkeypatch.setitem(media.DECODERS, "video", reader)
            out = tmp_path / "out.parquet"
            assert run("video", weights, *PATHS, "--out", out, "--threads", threads, *options) == 0
            tables.append(out.read_bytes())
    assert tables[0] == tables[1] == tables[2] and tables[3] == tables[4] == tables[5]


def test_windows_that_come_in_blocks_have_the_numbers_of_the_whole(model, monkeypatch):
    """No block is kept for another one; a block that two windows share is cut."""
    real, sizes = media.sound_blocks, []

    def blocks(path, longest):
        found, rate = real(path, longest)
        return (sizes.append(block.shape[1]) or block for block in found), rate

    monkeypatch.setattr(media, "sound_blocks", blocks)
    waveform, rate = decode_audio(PATHS[1])
    for every in (None, 4.0, 7.3):
        sizes.clear()
        clips = list(audio_clips(PATHS[1], model.settings, every))
        assert len(sizes) > 100 and sum(sizes) == waveform.shape[1]
        size = round((every or 99) * rate)
        for number, clip in enumerate(clips):
            part = waveform[:, number * size : (number + 1) * size]
            front_end = LogMelFrontend(model.settings.cache.log_mel)
            alone = media.audio_clip(iter([part]), rate, model.settings, front_end)
            assert np.array_equal(clip.images, alone.images)
            assert clip.end - clip.start == pytest.approx(part.shape[1] / rate)


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_more_than_an_hour_is_no_clip_but_has_windows(weights, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(media, "LONGEST_SECONDS", 5.0)
    out = tmp_path / "out.parquet"
    assert run(kind, weights, PATHS[1], "--out", out) == 78
    said = capsys.readouterr().err
    assert f"{PATHS[1]}: " in said and "of more than 5 s" in said and "--every" in said
    assert pd.read_parquet(out).status.tolist() == ["too_long"]
    assert run(kind, weights, PATHS[1], "--out", out, "--every", "4") == 0
    assert pd.read_parquet(out).status.tolist() == ["ok"] * 3


def test_a_file_of_a_folder_that_kills_its_opener_is_not_passed_over(folder, monkeypatch):
    real = files.is_media
    monkeypatch.setattr(files, "is_media", lambda p: os.abort() if "notes" in str(p) else real(p))
    assert folder / "notes.txt" in files.media_files([folder])

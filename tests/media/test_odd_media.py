"""Odd and corrupt files: no crash, and the right status, pictures and sound."""

import re

import numpy as np
import odd_media
import pytest
from odd_media import BEGIN, CASES, DOCS, END

from clip4vla.media.decode import DecodeError, decode_audio, decode_frames
from clip4vla.media.probe import probe_file


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_odd_file(case, tmp_path):
    path = tmp_path / case.name
    case.make(path)
    probe = probe_file(path)
    assert (probe.video, probe.audio) == (case.video, case.audio)
    assert {name: getattr(probe, name) for name in case.facts} == case.facts
    assert re.fullmatch(case.left_out, probe.left_out)
    _pictures_agree(case, probe, path)
    _sound_agrees(case, probe, path)


def _pictures_agree(case, probe, path):
    if case.video in ("no_video_stream", "decode_error", "too_long"):
        with pytest.raises(DecodeError):
            list(decode_frames(path, 8))
        return
    frames = list(decode_frames(path, 8))
    assert all(frame.dtype == np.uint8 and frame.shape[2] == 3 for frame in frames)
    assert frames[-1].shape[:2] == (probe.height, probe.width)
    if case.frames is not None:
        assert len(frames) == case.frames
    if case.grays is not None:
        assert [round(frame.mean() / 10) for frame in frames] == case.grays
    if case.size is not None:
        assert frames[0].shape[:2] == case.size


def _sound_agrees(case, probe, path):
    if case.audio in ("no_audio_stream", "too_long") or not probe.sample_rate:
        with pytest.raises(DecodeError):
            decode_audio(path)
        return
    if case.audio == "ok":
        samples, rate = decode_audio(path)
        assert samples.dtype == np.float32 and rate == probe.sample_rate
        assert np.isfinite(samples).all() and samples.any()
        assert probe.peak_dbfs == pytest.approx(20 * np.log10(np.abs(samples).max()), abs=1e-3)
    if case.sound is not None:
        channels, wanted, seconds = case.sound
        assert (samples.shape[0], rate) == (channels, wanted)
        assert samples.shape[1] / rate == pytest.approx(seconds, abs=0.13)  # codecs pad
        tone = np.abs(np.fft.rfft(samples[0][: rate // 2])).argmax() * 2
        assert tone == pytest.approx(440 if "channels_12" not in case.name else 424, abs=6)


def test_there_are_many_and_the_table_in_the_docs_is_about_them():
    assert len(CASES) >= 40 and len({case.name for case in CASES}) == len(CASES)
    written = DOCS.read_text().partition(BEGIN)[2].partition(END)[0]
    assert written == odd_media.table(), "run python tests/media/odd_media.py"

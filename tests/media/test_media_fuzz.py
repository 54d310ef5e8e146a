"""Thousands of corrupt files get a status: no exception, no hang, no disagreement."""

import faulthandler

import numpy as np
import pytest
from mutants import mutant, originals

from clip4vla.media.decode import DecodeError, decode_audio, decode_frames
from clip4vla.media.probe import probe_file
from clip4vla.media.status import AudioStatus, VideoStatus


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return originals(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("count", [680, pytest.param(17_000, marks=pytest.mark.slow)])
def test_damaged_files(whole, tmp_path, count):
    path, names, outcomes = tmp_path / "x.mp4", list(whole), set()
    for number in range(count):
        data = mutant(whole[names[number % len(names)]], np.random.default_rng([7, number]))
        path.write_bytes(data)
        faulthandler.dump_traceback_later(300, exit=True)  # one that hangs would hang for ever
        try:
            outcomes.add(_consistent(path))
        except Exception as error:
            raise AssertionError(f"{names[number % len(names)]}, mutant {number}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
    videos, audios = zip(*outcomes, strict=True)
    assert {"ok", "decode_error", "no_video_stream", "too_short"} == set(videos)
    assert {"ok", "decode_error", "no_audio_stream"} <= set(audios)


def _consistent(path):
    """The statuses, after the decoders have agreed with them."""
    probe = probe_file(path)
    video, audio = VideoStatus(probe.video), AudioStatus(probe.audio)
    try:
        pictures = [picture.shape for picture in decode_frames(path, 1)]
    except DecodeError:
        pictures = []
    assert bool(pictures) == (video in ("ok", "too_short"))
    try:
        samples, rate = decode_audio(path)
    except DecodeError:
        samples = None
    if audio in ("ok", "digital_silence"):
        assert samples.shape[1] > 0 and samples.shape[0] in (1, 2) and np.isfinite(samples).all()
        assert samples.any() == (audio == "ok") and rate == probe.sample_rate
    return str(video), str(audio)

"""Files cut into windows: times, what is in them, and going on in the middle."""

import numpy as np
import pytest
from embed_files import DEMO, INPUTS, PATHS

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.common.errors import UserError
from clip4vla.config.settings import Settings
from clip4vla.media.decode import decode_audio
from clip4vla.search.windows import Cut, Finished, pieces_of

SETTINGS = Settings(inputs=INPUTS)
BOTH = ("vision", "audio")


def pieces(path, cut, modalities=BOTH, first=0):
    *found, end = pieces_of(path, SETTINGS, cut, modalities, first)
    assert isinstance(end, Finished)
    return found, end


def test_windows_cover_a_file_and_hold_their_own_samples():
    cut = Cut(4, 2.5)
    found, end = pieces(PATHS[1], cut)
    assert [piece.start for piece in found] == [0, 2.5, 5, 7.5] and not end.problem
    assert [piece.end for piece in found[:3]] == pytest.approx([4, 6.5, 9])
    waveform, rate = decode_audio(PATHS[1])
    assert found[-1].end == pytest.approx(waveform.shape[1] / rate, abs=0.1)
    own = waveform[:, round(2.5 * rate) : round(6.5 * rate)]
    expected = LogMelFrontend(SETTINGS.cache.log_mel)(own, rate).numpy()
    assert np.array_equal(found[1].log_mel, expected)
    assert all(len(piece.jpegs) == 3 for piece in found[:3])  # max_frames
    assert all(piece.thumbnail.startswith(b"\xff\xd8") for piece in found)


@pytest.mark.parametrize("first", [1, 3, 9])
def test_windows_are_the_same_from_any_number_on(first):
    cut = Cut(4, 2)
    whole, (rest, _) = pieces(PATHS[1], cut)[0], pieces(PATHS[1], cut, first=first)
    assert len(rest) == max(len(whole) - first, 0)
    for one, other in zip(whole[first:], rest, strict=True):
        assert one.jpegs == other.jpegs and one._replace(log_mel=0) == other._replace(log_mel=0)
        assert np.array_equal(one.log_mel, other.log_mel)


def test_a_short_rest_has_no_window_and_a_short_file_has_one():
    cut = Cut(10, 10)
    assert not cut.ends_before(0, 0.2) and not cut.ends_before(1, 11)
    assert cut.ends_before(1, 10.9) and cut.ends_before(1, 10)
    assert len(pieces(PATHS[1], Cut(300, 300))[0]) == 1


def test_what_is_missing_is_missing():
    mute, end = pieces(PATHS[2], Cut(4, 4))
    assert not end.problem and all(piece.log_mel is None and piece.jpegs for piece in mute)
    silent, _ = pieces(DEMO / "bbb_120.mp4", Cut(4, 4))
    assert all(piece.log_mel is None for piece in silent)
    sounds, _ = pieces(PATHS[1], Cut(4, 4), ["audio"])
    assert all(not piece.jpegs and piece.log_mel is not None for piece in sounds)


def test_a_stream_that_breaks_leaves_the_other(monkeypatch):
    def broken(*_):
        raise ValueError("samples are NaN")

    monkeypatch.setattr("clip4vla.search.windows.sound_blocks", broken)
    found, end = pieces(PATHS[1], Cut(4, 4))
    assert end.problem == "sound: samples are NaN" and all(piece.jpegs for piece in found)


@pytest.mark.parametrize(("window", "hop"), [(0.5, 0.5), (301, 10), (4, 5), (4, 0.1)])
def test_a_cut_that_makes_no_sense_is_refused(window, hop):
    with pytest.raises(UserError, match=r"--(window|hop): .* seconds is not valid. Fix: give"):
        Cut(window, hop)

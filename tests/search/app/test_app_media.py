"""Windows of files: cut out exactly, converted for browsers, drawn."""

import io
import resource

import av
import numpy as np
import pytest
from app_files import FILM, FORMATS, SILENT, made
from PIL import Image

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.common.errors import UserError
from clip4vla.config.data import LogMel
from clip4vla.media.decode import DecodeError, decode_audio, decode_frames
from clip4vla.search.app.clip import write_clip
from clip4vla.search.app.excerpt import pictures_between, sound_between
from clip4vla.search.app.files import isolated
from clip4vla.search.app.formats import kind_of, played_type
from clip4vla.search.app.images import HEIGHT, WIDTH, spectrogram, still

TALLEST = 1000  # higher than the clips: nothing is scaled


def sound_of(path, start, end):
    blocks, rate = sound_between(path, start, end)
    return np.concatenate(list(blocks), axis=1), rate


@pytest.mark.parametrize("name", ["whole.mp4", "film.mkv", "sound.wav", "sound.flac"])
def test_the_sound_of_a_window_is_that_of_the_file(tmp_path, name):
    path = made(tmp_path, name)
    whole, rate = decode_audio(path)
    for start, end in [(0, 2), (4, 7), (8, 99)]:
        cut, same_rate = sound_of(path, start, end)
        wanted = whole[:, start * rate : min(end * rate, whole.shape[1])]
        assert same_rate == rate and abs(cut.shape[1] - wanted.shape[1]) <= 2048
        shared = min(cut.shape[1], wanted.shape[1])
        np.testing.assert_allclose(cut[:, :shared], wanted[:, :shared], atol=1e-4)


@pytest.mark.parametrize("name", ["whole.mp4", "old.avi", "film.mkv", "stream.ts", "raw.h264"])
def test_the_pictures_of_a_window_are_those_of_the_file(tmp_path, name):
    path = made(tmp_path, name)
    whole = list(decode_frames(path, 4.0))  # the picture shown at i / 4 seconds
    found = list(pictures_between(path, 4.0, 6.0, TALLEST))
    times = [time for time, _ in found]
    assert times[0] == 0 and times == sorted(times) and 1 < times[-1] < 2  # raw.h264 cannot seek
    for quarter in range(8):
        shown = [pixels for time, pixels in found if time <= quarter / 4 + 1e-3][-1]
        assert np.abs(shown.astype(int) - whole[16 + quarter]).mean() < 1


def test_a_window_without_sound_is_an_error():
    with pytest.raises(DecodeError, match="no sound could be decoded at 60.0 s"):
        sound_between(FILM, 60, 70)
    with pytest.raises(DecodeError, match="no audio stream"):
        sound_between(SILENT, 0, 1)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_formats_of_browsers_are_known(tmp_path, name):
    assert played_type(made(tmp_path, name)) == FORMATS[name][1]


@pytest.mark.parametrize("name", ["old.avi", "stream.ts", "deep.mp4", "sound.wma"])
def test_other_formats_are_converted(tmp_path, name):
    write_clip(made(tmp_path, name), 0.5, 2.5, tmp_path / "out.mp4")
    assert played_type(tmp_path / "out.mp4") == "video/mp4"
    with av.open(str(tmp_path / "out.mp4")) as clip:
        kinds = ["audio"] if name == "sound.wma" else ["video", "audio"]
        assert [stream.type for stream in clip.streams] == kinds
        assert clip.duration / av.time_base == pytest.approx(2, abs=0.15)
    before, rate = sound_of(tmp_path / name, 0.5, 2.5)
    after, new_rate = sound_of(tmp_path / "out.mp4", 0, 2)
    loud = [np.sqrt(np.mean(part**2)) for part in (before, after)]
    assert loud[1] == pytest.approx(loud[0], rel=0.1) and new_rate == 48_000


def test_a_converted_window_shows_the_same_picture(tmp_path):
    write_clip(FILM, 4.0, 6.0, tmp_path / "out.mp4")
    wanted = next(pictures_between(FILM, 4.0, 6.0, TALLEST))[1]
    found = next(pictures_between(tmp_path / "out.mp4", 0, 2, TALLEST))[1]
    assert found.shape == wanted.shape and np.abs(found.astype(int) - wanted).mean() < 8


def test_a_large_picture_is_made_smaller(tmp_path):
    time, pixels = next(pictures_between(FILM, 4.0, 6.0, 100))
    full = next(pictures_between(FILM, 4.0, 6.0, TALLEST))[1]
    assert pixels.shape[0] == 100
    assert pixels.shape[1] == pytest.approx(100 * full.shape[1] / full.shape[0], abs=1)


def test_nothing_to_convert_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(DecodeError, match="nothing could be decoded at 60.0 s"):
        write_clip(SILENT, 60, 70, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_no_fault_of_the_file(tmp_path):
    """A limit to the size of files fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        with pytest.raises(OSError, match="File too large: .*out.mp4"):
            write_clip(FILM, 4.0, 6.0, tmp_path / "out.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*tmp_path.iterdir()] == []


def test_a_spectrogram_spans_the_window():
    config = LogMel()
    image = Image.open(
        io.BytesIO(spectrogram(FILM, 5.0, 15.0, LogMelFrontend(config)))
    )  # the film ends at 10 s
    assert image.size == (WIDTH, HEIGHT)
    pixels = np.asarray(image).astype(int)
    assert (
        pixels[:, : WIDTH // 2 - 2].std() > 10
        and pixels[:, WIDTH // 2 + 2 :].std(axis=(0, 1)).max() == 0
    )
    blocks, rate = sound_between(FILM, 5.0, 10.0)
    log_mel = LogMelFrontend(config)(blocks, rate).float()[0].numpy()  # [T, n_mels]
    halves = np.array_split(log_mel.mean(axis=1), 2)
    drawn = np.array_split(pixels[:, : WIDTH // 2].mean(axis=(0, 2)), 2)
    assert (halves[0].mean() < halves[1].mean()) == (drawn[0].mean() < drawn[1].mean())


def test_the_kind_of_a_query_is_known_by_its_content(tmp_path):
    image = tmp_path / "sound.wav"  # a wrong name
    Image.new("RGB", (8, 8)).save(image, format="PNG")
    assert kind_of(image) == "image"
    assert kind_of(FILM) == "video"
    assert kind_of(made(tmp_path, "sound.mp3")) == "audio"


@pytest.mark.parametrize("content", [b"text", b"\x89PNG\r\n\x1a\n broken", b"RIFF0000WAVE"])
def test_a_broken_query_is_one_sentence(tmp_path, content):
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^dog\.png: cannot be decoded \(.*\)\. Fix: [^\n]*$"):
        isolated(kind_of, path, "dog.png")


def test_a_decoder_that_crashes_or_hangs_is_one_sentence():
    import os
    import time

    with pytest.raises(UserError, match="a.mp4: cannot be decoded .the process died"):
        isolated(lambda path: os.abort(), FILM, "a.mp4")
    with pytest.raises(UserError, match="a.mp4: cannot be decoded .no answer in 0 s"):
        isolated(lambda path: time.sleep(30), FILM, "a.mp4", seconds=0.3)


def test_a_still_is_the_picture_in_the_middle():
    found = np.asarray(Image.open(io.BytesIO(still(FILM, 4.0, 8.0)))).astype(int)
    wanted = next(pictures_between(FILM, 6.0, 7.0, TALLEST))[1]
    assert found.shape == wanted.shape and np.abs(found - wanted).mean() < 5
    with pytest.raises(DecodeError, match="no picture could be decoded at 65.0 s"):
        still(FILM, 60.0, 70.0)

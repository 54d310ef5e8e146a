import contextlib
import os
import shutil
import subprocess
import wave
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
from synthetic import make_clip

from clip4vla.cache.waveform import as_waveform
from clip4vla.media.decode import DecodeError, decode_audio, decode_frames
from clip4vla.media.probe import PROBE_COLUMNS, probe_file, probe_shard
from clip4vla.media.tools import ffmpeg


def grays(path, fps, **more):
    return [int(frame.mean() / 10 + 0.5) for frame in decode_frames(path, fps, **more)]


@pytest.mark.parametrize(
    ("layout", "rate", "channels"),
    [("mono", 8000, 1), ("stereo", 44100, 2), ("5.1", 48000, 2)],
)
def test_sound_keeps_its_rate_and_has_at_most_two_channels(tmp_path, layout, rate, channels):
    path = make_clip(tmp_path / "x.mp4", sound=(layout, rate), codecs=("mpeg4", "aac"))
    samples, found = decode_audio(path)
    assert samples.dtype == np.float32 and samples.shape[0] == channels and found == rate
    assert samples.shape[1] / rate == pytest.approx(1.0, abs=2100 / rate)
    assert probe_file(path).audio == "ok"


def test_integer_sound_is_scaled_to_one(tmp_path):
    path = tmp_path / "x.wav"
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(np.array([16384, -16384, 0, 0] * 1000, "<i2").tobytes())
    samples, rate = decode_audio(path)
    assert rate == 8000 and samples[0, :4].tolist() == [0.5, -0.5, 0.0, 0.0]


def test_pictures_are_those_shown_on_the_grid(tmp_path):
    path = make_clip(tmp_path / "x.mp4", seconds=2, fps=8)
    assert grays(path, 8) == list(range(16))
    assert grays(path, 2) == [0, 4, 8, 12]
    assert grays(path, 1) == [0, 8]
    assert grays(path, 0.1) == [0]
    assert grays(path, 16)[:4] == [0, 0, 1, 1]
    assert grays(path, 1, seconds=1.0) == [0]
    assert grays(path, 1, seconds=1.01) == [0, 8]
    frame = next(decode_frames(path, 1))
    assert frame.dtype == np.uint8 and frame.shape == (16, 32, 3)


def test_a_rate_that_is_no_integer_keeps_the_seconds(tmp_path):
    """Not every int(fps)-th picture and the last one again, 0 2 4 6 8 9, as the released code."""
    path = make_clip(tmp_path / "x.mkv", seconds=4, fps=Fraction(5, 2), sound=None)
    assert grays(path, 1) == [0, 2, 5, 7]


def test_variable_frame_rate(tmp_path):
    path = make_clip(tmp_path / "x.mkv", times=[0, 100, 900, 1900, 2000], sound=None)
    assert grays(path, 1)[:3] == [0, 2, 4]  # at 0, 1 and 2 s pictures 0, 2 (from 0.9 s) and 4 show


def test_rotation_is_honoured(tmp_path):
    plain = make_clip(tmp_path / "plain.mp4", sound=None)
    turned = bytearray(plain.read_bytes())
    identity = bytes.fromhex("00010000" + "0" * 24 + "00010000" + "0" * 24 + "40000000")
    quarter = bytes.fromhex(
        "00000000" "00010000" "00000000" "ffff0000" "00000000" "00000000" "00100000" "00000000"
        "40000000"
    )  # fmt: skip
    at = turned.index(identity, turned.index(b"tkhd"))
    turned[at : at + 36] = quarter
    path = tmp_path / "turned.mp4"
    path.write_bytes(turned)
    assert next(decode_frames(path, 1)).shape == (32, 16, 3)
    probe = probe_file(path)
    assert (probe.width, probe.height) == (16, 32)


def test_probe_of_a_sound_clip(clip):
    probe = probe_file(clip)
    assert (probe.video, probe.audio) == ("ok", "ok")
    assert probe.duration == pytest.approx(1.0, abs=0.15)
    assert (probe.width, probe.height, probe.fps) == (32, 16, 8)
    assert (probe.video_codec, probe.audio_codec) == ("mpeg4", "aac")
    assert (probe.sample_rate, probe.channels, probe.near_silence) == (16000, 1, False)
    assert probe.rms_dbfs == pytest.approx(20 * np.log10(0.3 / 2**0.5), abs=1)
    assert probe.peak_dbfs == pytest.approx(20 * np.log10(0.3), abs=1)


def test_the_kinds_of_silence(tmp_path):
    none = probe_file(make_clip(tmp_path / "a.mp4", sound=None))
    assert (none.video, none.audio) == ("ok", "no_audio_stream") and np.isnan(none.rms_dbfs)
    zero = probe_file(make_clip(tmp_path / "b.mp4", amplitude=0))
    assert (zero.audio, zero.rms_dbfs, zero.near_silence) == ("digital_silence", -np.inf, True)
    for amplitude, audio in ((2**-16 * 0.9, "digital_silence"), (2**-16 * 1.5, "ok")):
        path = tmp_path / "d.mkv"  # below half a step of 16 bits a wav file has only zeros
        make_clip(path, amplitude=amplitude, codecs=("mpeg4", "pcm_f32le"))
        assert probe_file(path).audio == audio
    faint = probe_file(make_clip(tmp_path / "c.mp4", amplitude=1.2e-4))
    assert faint.audio == "ok" and faint.near_silence


@pytest.mark.parametrize(("amplitude", "heard"), [(99, "ok"), (101, "decode_error")])
def test_sound_far_beyond_full_scale_is_silent(tmp_path, amplitude, heard):
    """What the probe lets through the front-end takes; the pictures are kept either way."""
    codecs = ("mpeg4", "pcm_f32le")
    path = make_clip(tmp_path / "x.mkv", amplitude=amplitude, codecs=codecs)
    probe = probe_file(path)
    assert (probe.video, probe.audio) == ("ok", heard)
    with contextlib.nullcontext() if heard == "ok" else pytest.raises(ValueError, match="beyond"):
        as_waveform(decode_audio(path)[0])


def test_missing_and_still_pictures(tmp_path):
    sound = probe_file(make_clip(tmp_path / "a.mp4", pictures=False))
    assert (sound.video, sound.audio) == ("no_video_stream", "ok")
    still = probe_file(make_clip(tmp_path / "b.mp4", seconds=1 / 30, fps=30, sound=None))
    assert still.video == "too_short"
    with pytest.raises(DecodeError, match="no video stream"):
        next(decode_frames(tmp_path / "a.mp4", 1))
    with pytest.raises(DecodeError, match="no audio stream"):
        decode_audio(tmp_path / "b.mp4")


def test_a_wrong_suffix_does_not_matter(tmp_path, clip):
    shutil.copy(clip, tmp_path / "x.avi")
    assert probe_file(tmp_path / "x.avi").video == "ok"


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>no video</html>", b"\0" * 5000, b"#EXTM3U\n#EXTINF:1,\nfile:clip.mp4\n",
     b"ffconcat version 1.0\nfile clip.mp4\n"],
)  # fmt: skip
def test_files_that_are_not_media(tmp_path, clip, content):
    shutil.copy(clip, tmp_path / "clip.mp4")
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    probe = probe_file(path)
    assert (probe.video, probe.audio) == ("decode_error", "decode_error")
    with pytest.raises(DecodeError):
        decode_audio(path)


def test_a_directory_or_fifo_never_hangs(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    for path in (tmp_path, tmp_path / "fifo.mp4"):
        assert probe_file(path).video == "decode_error"


def test_truncation_costs_the_sound_but_not_the_pictures(tmp_path):
    path = make_clip(tmp_path / "x.mkv", seconds=4)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert probe_file(path).video == "ok"
    fast = tmp_path / "fast.mp4"
    slow = make_clip(tmp_path / "y.mp4", seconds=4)
    options = {"movflags": "faststart"}
    with av.open(str(slow)) as source, av.open(str(fast), "w", options=options) as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    whole = fast.read_bytes()
    fast.write_bytes(whole[: len(whole) * 6 // 10])
    probe = probe_file(fast)
    assert (probe.video, probe.audio) == ("ok", "decode_error")


def run(folder, *arguments):
    """ffmpeg in a folder."""
    words = [word for one in arguments for word in ([one] if "'" in one else one.split())]
    subprocess.run([ffmpeg(), "-loglevel", "error", *words], cwd=folder, check=True)


def test_a_length_that_libav_guesses_is_ignored(tmp_path):
    """Matroska has one length for all tracks, an mp3 without a header none at all."""
    make_clip(tmp_path / "picture.mkv", seconds=4, sound=None)
    make_clip(tmp_path / "sound.mkv", seconds=1, pictures=False)
    run(tmp_path, "-i picture.mkv -itsoffset 3 -i sound.mkv -c copy late.mkv")
    late = probe_file(tmp_path / "late.mkv")
    assert (late.video, late.audio) == ("ok", "ok")
    swelling = "aevalsrc='0.5*random(0)*if(lt(t,3),0.001,1)':s=16000:d=6"  # few bits, then many
    run(tmp_path, "-f lavfi -i", swelling, "-c:a libmp3lame -q:a 9 -write_xing 0 x.mp3")
    assert probe_file(tmp_path / "x.mp3").audio == "ok"


def test_damage_never_raises(tmp_path, clip):
    data = clip.read_bytes()
    chance = np.random.default_rng(0)
    for number in range(30):
        damaged = bytearray(data)
        for at in chance.integers(0, len(data), 40):
            damaged[at] = chance.integers(256)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(damaged)
        probe = probe_file(path)
        if probe.audio == "ok":
            assert decode_audio(path)[0].shape[1] > 0
        if probe.video == "ok":
            assert next(decode_frames(path, 1)).ndim == 3


def test_probe_shard_keeps_order_and_dtypes(clip):
    rows = pd.DataFrame({"clip_id": ["b", "a"], "fetch": ["ok", "gone"], "path": [str(clip), ""]})
    table = probe_shard(rows)
    assert list(table.clip_id) == ["b", "a"] and list(table.columns) == list(PROBE_COLUMNS)
    assert list(table.video) == ["ok", "not_fetched"]
    assert list(table.audio) == ["ok", "not_fetched"]
    empty = probe_shard(rows.iloc[:0])
    assert (empty.dtypes == table.dtypes).all()

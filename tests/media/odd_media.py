"""Odd and corrupt media, generated here, with the expected results of probe and decoders.

`python tests/media/odd_media.py` writes the table of docs/media.md from CASES.
"""

import gzip
import os
import struct
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs" / "media.md"
BEGIN, END = "<!-- table: odd files -->\n", "<!-- end of table -->"
NONE, SILENT, BROKEN = "no_audio_stream", "digital_silence", "decode_error"
NO_PICTURE = "no_video_stream"


@dataclass
class Case:
    """A file `name`, made by `make(path)`; its statuses; what is done with it; more that holds.

    facts: fields of the probe; frames: pictures on a grid of 8 a second; grays: their numbers, as
    `record` draws them; size: (height, width) of a picture; sound: (channels, rate, seconds);
    left_out: a pattern of what the probe says of it.
    """

    name: str
    what: str
    video: str
    audio: str
    done: str
    make: Callable[[Path], object]
    facts: dict = field(default_factory=dict)
    frames: int | None = None
    grays: list[int] | None = None
    size: tuple[int, int] | None = None
    sound: tuple[int, int, float] | None = None
    left_out: str = ""


def record(
    path,
    seconds=1.0,
    container=None,
    codec="libx264",
    pix_fmt="yuv420p",
    size=(64, 48),
    fps=8,
    times=None,
    aspect=None,
    turn=None,
    matrix=None,
    options=None,
    sound="aac",
    layout="mono",
    rate=16000,
    amplitude=0.3,
    wave=None,
    sound_seconds=None,
    sound_from=0.0,
    pictures_from=0.0,
    muxer=None,
    sound_format="fltp",
    tracks=1,
):
    """One file; picture k is gray 10 k; `codec` or `sound` None leaves that stream out."""
    with av.open(str(path), "w", format=container, options=muxer or {}) as out:
        video, packets = None, []
        if codec:
            video = out.add_stream(codec, rate=fps, options=options or {})
            video.width, video.height, video.pix_fmt = *size, pix_fmt
            video.codec_context.gop_size = 4
            if times:
                video.codec_context.time_base = Fraction(1, 1000)
            if aspect:
                video.codec_context.sample_aspect_ratio = aspect
            if turn is not None:
                video.set_display_rotation(turn)
            if matrix is not None:
                video.set_display_matrix(matrix)
        tones = [
            out.add_stream(sound, rate=rate, layout=layout) for _ in range(tracks if sound else 0)
        ]
        base = Fraction(1, 1000 if times else fps)
        shift = round(pictures_from / base)
        for number, at in enumerate(times or range(round(seconds * fps))) if video else ():
            gray = np.full((size[1], size[0], 3), min(250, 10 * number), np.uint8)
            picture = av.VideoFrame.from_ndarray(gray, format="rgb24").reformat(format=pix_fmt)
            picture.pts, picture.time_base = at + shift, base
            packets += video.encode(picture)
        for tone in tones:
            packets += _tone(tone, rate, layout, amplitude, wave, sound_format,
                             seconds if sound_seconds is None else sound_seconds, sound_from)  # fmt: skip
        for stream in filter(None, (video, *tones)):
            packets += stream.encode(None)
        packets.sort(
            key=lambda packet: packet.dts * packet.time_base if packet.dts is not None else 0
        )
        out.mux(packets)
    return path


def _tone(stream, rate, layout, amplitude, wave, form, seconds, begin):
    count = round(seconds * rate)
    channels = av.AudioLayout(layout).nb_channels
    if wave is None:
        wave = amplitude * np.sin(np.arange(count) * 2 * np.pi * 440 / rate)
    samples = np.stack([wave] * channels).astype(np.float32)  # [C, n]
    convert = av.AudioResampler(form, layout, rate)
    step = stream.codec_context.frame_size or 1024
    for at in range(0, count, step):
        interleaved = samples[:, at : at + step].T.reshape(1, -1)
        block = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        block.sample_rate, block.time_base = rate, Fraction(1, rate)
        block.pts = at + round(begin * rate)
        for frame in convert.resample(block):
            yield from stream.encode(frame)


def pcm(path, codec="pcm_s16le", form="s16", **more):
    return record(path, container="wav", codec=None, sound=codec, sound_format=form, **more)


def content(data: bytes):
    return lambda path: path.write_bytes(data)


def made(**how):
    return lambda path: record(path, **how)


def damaged(damage, **how):
    """A file made by `record` whose bytes `damage` then changes."""

    def make(path):
        record(path, **how)
        path.write_bytes(damage(bytearray(path.read_bytes())))

    return make


def cut(share):
    return lambda data: data[: int(len(data) * share)]


def flipped(data):
    begin = data.index(b"mdat") + 8
    for at in np.random.default_rng(5).integers(begin, data.index(b"moov") - 4, 60):
        data[at] ^= 0xFF
    return data


def without_index(data):
    return data[: data.index(b"moov") - 4]


def claims(old: bytes, new: bytes):
    def change(data):
        assert old in data
        return data.replace(old, new)

    return change


def interlaced(path, codec="mpeg2video"):
    """Two fields of two moments: a white bar that moves between them combs."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"flags": "+ildct+ilme", "qmin": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.bit_rate = 8_000_000
        for number in range(25):
            pixels = np.zeros((96, 128, 3), np.uint8)
            for parity in (0, 1):
                left = 8 + 4 * number + 8 * parity
                pixels[parity::2, left : left + 16] = 235
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def still(path):
    with av.open(str(path), "w", format="gif") as out:
        stream = out.add_stream("gif", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb8"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16), np.uint8), format="rgb8")
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def picture(form):
    return lambda path: Image.new("RGB", (64, 48), "red").save(path, form)


def with_cover(path):
    """Sound with an attached picture, as shops sell it."""
    cover, sound = path.with_suffix(".jpg"), path.with_suffix(".sound.mkv")
    Image.new("RGB", (64, 64), "red").save(cover)
    codec = "libmp3lame" if path.suffix == ".mp3" else "aac"
    record(sound, codec=None, sound=codec, rate=44100)
    ffmpeg("-i", sound, "-i", cover, "-map", "0", "-map", "1", "-c", "copy",
           "-disposition:v:0", "attached_pic", path)  # fmt: skip
    cover.unlink()
    sound.unlink()


def with_subtitles(path):
    """Chapters and a subtitle track, which come first."""
    source = record(path.with_suffix(".source.mkv"))
    words = path.with_suffix(".srt")
    words.write_text("1\n00:00:00,000 --> 00:00:00,900\nWords\n")
    notes = path.with_suffix(".txt")
    notes.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=One\n")
    ffmpeg("-i", words, "-i", source, "-i", notes, "-map", "0", "-map", "1", "-map_chapters", "2",
           "-c", "copy", "-c:s", "srt", path)  # fmt: skip
    for helper in (source, words, notes):
        helper.unlink()


def ffmpeg(*arguments):
    """The same binary that cuts clips; here it makes and judges test files."""
    import imageio_ffmpeg

    binary = imageio_ffmpeg.get_ffmpeg_exe()
    command = [binary, "-nostdin", "-y", "-loglevel", "error", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def no_frames(path):
    """A picture track that is announced and stays empty, beside sound."""
    whole = record(path.with_suffix(".whole.mkv"))
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        streams = [out.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    whole.unlink()


def joined(path, parts=2):
    """Recordings one after the other in a transport stream: time stamps start again."""
    first = record(path, container="mpegts", sound="mp2", rate=48000).read_bytes()
    path.write_bytes(first * parts)


def two_pids(path):
    """The second recording of a transport stream has streams of its own."""
    whole = b""
    for number in ("0x100", "0x200"):
        options = {"mpegts_start_pid": number}
        record(path, container="mpegts", sound="mp2", rate=48000, size=(256, 192),
               codec="mpeg2video", fps=25, muxer=options)  # fmt: skip
        whole += path.read_bytes()
    path.write_bytes(whole)


def below_zero(path):
    """Its first clusters lie before zero, where Matroska has no numbers: those stamps are lost."""
    source = record(path.with_suffix(".source.mkv"), seconds=2, sound="flac", sound_format="s16")
    ffmpeg("-i", source, "-c", "copy", "-output_ts_offset", "-0.6",
           "-avoid_negative_ts", "disabled", path)  # fmt: skip
    source.unlink()


def frame_rate(rate, scale):
    """An AVI with this rate over this scale in the header of its pictures."""

    def change(data):
        at = data.index(b"strh") + 28
        data[at : at + 8] = struct.pack("<II", scale, rate)
        return data

    return damaged(change, container="avi", codec="mpeg4", sound=None)


def piped_avi(path):
    """What a program writes that cannot go back to fill in the lengths."""
    source = record(
        path.with_suffix(".source.mkv"), seconds=4, sound="flac", sound_format="s16", rate=44100
    )
    path.write_bytes(ffmpeg("-i", source, "-c:v", "mpeg4", "-c:a", "libmp3lame", "-f", "avi", "-"))
    source.unlink()


def chained(path):
    """Two Ogg files one behind the other, of other channels: libav reads the first."""
    whole = b""
    for layout in ("mono", "stereo"):
        source = record(path.with_suffix(".wav"), codec=None, sound="pcm_s16le", sound_format="s16",
                        layout=layout, rate=48000)  # fmt: skip
        whole += ffmpeg("-i", source, "-c:a", "libvorbis", "-f", "ogg", "-")
        source.unlink()
    path.write_bytes(whole)


def hour(path):
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono:d=3610", path)


def two_sizes(path):
    """The second half of an elementary stream has other dimensions."""
    parts = [
        record(path, container="h264", size=size, sound=None).read_bytes()
        for size in ((64, 48), (32, 80))
    ]
    path.write_bytes(b"".join(parts))


def many_channels(path):
    header = struct.pack("<HHIIHH", 1, 12, 16000, 16000 * 24, 24, 16)
    wave = np.repeat((9000 * np.sin(np.arange(16000) / 6)).astype("<i2")[:, None], 12, 1).tobytes()
    body = (
        b"WAVEfmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", len(wave)) + wave
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def gap(path):
    record(path, container="matroska", times=[0, 125, 250, 5000, 5125], sound=None)


def far_stamp(path):
    """A time stamp 300 hours away, which a grid must not be filled up to."""
    record(
        path, container="matroska", times=[0, 125, 250, 1_080_000_000, 1_080_000_125], sound=None
    )


def not_a_number(path):
    wave = (0.3 * np.sin(np.arange(16000) / 6)).astype(np.float32)
    wave[5000:5100] = np.nan
    pcm(path, "pcm_f32le", "flt", wave=wave)


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip.mp4", b"0" * 1000)


def beside(make):
    """What `make` writes names another, whole clip beside it."""

    def both(path):
        record(path.with_name("whole.mp4"))
        path.write_bytes(make(path))

    return both


def link(path):
    record(path.with_name("whole.mp4"))
    path.symlink_to("whole.mp4")


QUARTER = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]
MIRROR = [-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]
G8 = list(range(8))

CASES = [
    # pictures in time
    Case("plain.mp4", "H.264 and AAC", "ok", "ok", "as it is", made(),
         {"fps": 8.0, "damaged": 0}, grays=G8, size=(48, 64), sound=(1, 16000, 1.0)),
    Case("vfr.mkv", "variable frame rate", "ok", NONE,
         "each point of the grid gets the picture shown at that moment",
         made(times=[0, 300, 350, 900], sound=None), grays=[0, 0, 0, 2, 2, 2, 2, 2, 3]),
    Case("gap.mkv", "five seconds without a new picture", "ok", NONE,
         "the picture before the gap stays on the screen", gap, frames=42),
    Case("far_stamp.mkv", "a time stamp 300 hours ahead", "ok", NONE,
         "a jump of more than 10 minutes is damage: the next picture follows at once", far_stamp,
         grays=[0, 1, 2, 3, 4]),
    Case("joined.ts", "two recordings joined, time stamps start again", "ok", "ok",
         "the second part follows the first", joined, grays=G8 * 2),
    Case("negative.mkv", "time stamps below zero", "ok", "ok", "time counts from the first picture", below_zero,
         grays=list(range(16))),
    Case("slow_claim.avi", "a header that claims a picture every 12 days", "ok", NONE,
         "ignored: 25 pictures a second; noted in `left_out`", frame_rate(1, 1_000_000),
         {"fps": 25.0}, frames=3, left_out=r"a frame rate of 1e-06 in its header"),
    Case("fast_claim.avi", "a header that claims a million pictures a second", "ok", NONE,
         "ignored: 25 pictures a second; noted in `left_out`", frame_rate(1_000_000, 1),
         {"fps": 25.0}, frames=3, left_out=r"a frame rate of 1e\+06 in its header"),
    Case("two_pids.ts", "another recording, with other stream numbers, behind the first", "ok", "ok",
         "the first only; noted in `left_out`", two_pids,
         left_out=r"the pictures in the last 5\d% of the file; the sound in the last 5\d% of the file"),
    Case("zeros_behind.ts", "a transport stream with 70 kB of zeros behind it", "ok", "ok",
         "as it is; noted in `left_out`", lambda path: (joined(path, 1), path.write_bytes(path.read_bytes() + bytes(70000))),
         grays=G8, sound=(1, 48000, 1.0), left_out=r"the pictures in the last \d\d% .*; the sound in the last \d\d% .*"),
    Case("zeros_between.ts", "70 kB of zeros in the middle of a transport stream", "ok", "ok",
         "passed over", lambda path: (joined(path, 1), path.write_bytes(path.read_bytes() + bytes(70000) + path.read_bytes())),
         grays=G8 * 2),
    Case("negative.mp4", "half a second lies before time zero", "ok", "ok", "hidden, as its edit list says",
         made(pictures_from=-0.5, sound_from=-0.5), grays=[4, 5, 6, 7], sound=(1, 16000, 0.5)),
    Case("late.mkv", "picture and sound begin at 3 s", "ok", "ok", "time counts from the first picture",
         made(pictures_from=3.0, sound_from=3.0), grays=G8),
    Case("late_sound.mkv", "sound begins 2 s after the picture", "ok", "ok",
         "sound counts from its own first sample, as with ffmpeg to wav", made(seconds=3, sound_seconds=1, sound_from=2.0),
         frames=24, sound=(1, 16000, 1.0)),
    Case("one_frame.mp4", "a single picture of 1/30 s", "too_short", NONE, "no video: shorter than 0.1 s",
         made(seconds=1 / 30, fps=30, sound=None), frames=1),
    Case("no_frames.mkv", "a picture track without pictures", BROKEN, "ok", "no video; sound is fine", no_frames),
    Case("high_rate.mp4", "240 pictures a second", "ok", NONE, "the grid picks some", made(fps=240, sound=None),
         {"fps": 240.0}, frames=8),
    # how pictures are stored
    Case("rotated.mp4", "held upright: a quarter turn", "ok", "ok", "turned", made(turn=90), {"width": 48, "height": 64},
         size=(64, 48)),
    Case("upside_down.mp4", "a half turn", "ok", NONE, "turned", made(turn=180, sound=None), size=(48, 64)),
    Case("mirrored.mp4", "a mirror in the display matrix", "ok", NONE, "mirrored", made(matrix=MIRROR, sound=None),
         size=(48, 64)),
    Case("wide_pixels.mp4", "anamorphic, pixels 4 : 3", "ok", NONE, "stretched to the display aspect (bicubic)",
         made(aspect=Fraction(4, 3), size=(48, 48), sound=None), {"width": 64, "height": 48}, size=(48, 64)),
    Case("narrow_pixels_rotated.mp4", "pixels 1 : 2 and a quarter turn", "ok", NONE, "stretched, then turned",
         made(aspect=Fraction(1, 2), turn=90, sound=None), {"width": 48, "height": 32}, size=(32, 48)),
    Case("absurd_pixels.mp4", "pixels 200 : 1", "ok", NONE, "ignored: square pixels",
         made(aspect=Fraction(200, 1), sound=None), size=(48, 64)),
    Case("interlaced.mpg", "interlaced MPEG-2", "ok", NONE, "deinterlaced (yadif), one picture a frame", interlaced,
         {"interlaced": True, "fps": 25.0}, frames=8, size=(96, 128)),
    Case("odd_size.mkv", "53 x 37 pixels", "ok", NONE, "as it is",
         made(size=(53, 37), pix_fmt="yuv444p", sound=None), size=(37, 53), grays=G8),
    Case("tiny.mkv", "2 x 2 pixels", "ok", NONE, "as it is", made(size=(2, 2), codec="ffv1", sound=None), size=(2, 2)),
    Case("two_sizes.mp4", "dimensions change on the way", "ok", NONE, "each picture has its own", two_sizes),
    Case("huge_claim.avi", "a header that claims 60,000 x 60,000 pixels", BROKEN, NONE,
         "not decoded: over 8192 x 8192",
         damaged(claims(struct.pack("<ii", 64, 48), struct.pack("<ii", 60000, 60000)),
                 container="avi", codec="ffv1", sound=None)),
    *(
        Case(f"{pix_fmt}.mkv", f"pixel format {pix_fmt}", "ok", NONE, "converted to RGB",
             made(pix_fmt=pix_fmt, codec=codec, sound=None), grays=G8, size=(48, 64))
        for pix_fmt, codec in (
            ("yuv422p", "libx264"), ("yuv444p", "libx264"), ("yuvj420p", "mjpeg"),
            ("yuv420p10le", "libx265"), ("yuv422p10le", "prores_ks"), ("gray", "ffv1"), ("gray16le", "ffv1"),
            ("bgra", "ffv1"), ("rgb24", "libx264rgb"), ("gbrp", "libx265"), ("yuv410p", "ffv1"),
        )
    ),
    Case("palette.avi", "256 colours from a palette (pal8)", "ok", NONE, "converted to RGB",
         lambda path: ffmpeg("-f", "lavfi", "-i", "color=red:s=64x48:r=8:d=1", "-pix_fmt", "pal8",
                             "-c:v", "png", path), frames=8, size=(48, 64)),
    *(
        Case(f"{codec}.{end}", what, "ok", NONE, "as it is",
             made(codec=codec, fps=fps, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p", sound=None),
             {"video_codec": name})
        for codec, end, what, name, fps in (
            ("libx265", "mp4", "HEVC", "hevc", 8), ("libvpx", "webm", "VP8", "vp8", 8),
            ("libvpx-vp9", "webm", "VP9", "vp9", 8), ("libsvtav1", "mp4", "AV1", "libdav1d", 8),
            ("mpeg1video", "mpg", "MPEG-1", "mpeg1video", 25), ("mpeg2video", "ts", "MPEG-2", "mpeg2video", 25),
            ("mpeg4", "avi", "MPEG-4 part 2", "mpeg4", 8), ("mjpeg", "mov", "Motion JPEG", "mjpeg", 8),
            ("wmv2", "asf", "WMV", "wmv2", 8), ("flv", "flv", "Sorenson", "flv", 8),
        )
    ),
    Case("moving.gif", "an animated GIF of ten pictures", "ok", NONE, "as it is",
         made(container="gif", codec="gif", pix_fmt="gray", fps=10, sound=None), frames=8),
    # sound
    Case("mono_8k.wav", "8 kHz", NO_PICTURE, "ok", "kept at its own rate; the front-end resamples",
         lambda path: pcm(path, rate=8000), {"sample_rate": 8000}, sound=(1, 8000, 1.0)),
    Case("stereo_96k.flac", "96 kHz", NO_PICTURE, "ok", "kept at its own rate; the front-end resamples",
         made(container="flac", codec=None, sound="flac", sound_format="s16", layout="stereo", rate=96000),
         {"channels": 2}, sound=(2, 96000, 1.0)),
    Case("sound_5.1.mkv", "5.1 channels", "ok", "ok", "mixed down to stereo (libav's matrix)",
         made(sound="ac3", layout="5.1", rate=48000), {"channels": 6}, sound=(2, 48000, 1.0)),
    Case("sound_7.1.mkv", "7.1 channels", "ok", "ok", "mixed down to stereo (libav's matrix)",
         made(sound="flac", sound_format="s16", layout="7.1", rate=48000), {"channels": 8}, sound=(2, 48000, 1.0)),
    Case("channels_12.wav", "twelve channels without names", NO_PICTURE, "ok", "their mean, as mono", many_channels,
         {"channels": 12}, sound=(1, 16000, 1.0)),
    *(
        Case(f"{codec}.wav", what, NO_PICTURE, "ok", "scaled to -1 … 1",
             lambda path, codec=codec, form=form: pcm(path, codec, form), {"audio_codec": codec},
             sound=(1, 16000, 1.0))
        for codec, form, what in (
            ("pcm_u8", "u8", "8-bit PCM"), ("pcm_s24le", "s32", "24-bit PCM"), ("pcm_f32le", "flt", "float PCM"),
            ("pcm_f64le", "dbl", "double PCM"), ("pcm_mulaw", "s16", "µ-law"),
        )
    ),
    Case("pipe.avi", "written to a pipe, so without a length; sound in MP3", "ok", "ok",
         "its length is measured", piped_avi, sound=(1, 44100, 4.0)),
    Case("chained.ogg", "a second recording of other form behind the first", NO_PICTURE, "ok",
         "the first only; noted in `left_out`", chained, {"damaged": 1}, sound=(1, 48000, 1.0),
         left_out="what follows an error of reading: .*"),
    Case("long.flac", "more than an hour of sound in 200 kB", NO_PICTURE, "too_long",
         "not used: cut it, or give its start and end", hour),
    Case("opus.webm", "Opus", NO_PICTURE, "ok", "as it is",
         made(container="webm", codec=None, sound="libopus", sound_format="flt", rate=48000), sound=(1, 48000, 1.0)),
    Case("short_sound.mp4", "sound of 1 s under 3 s of picture", "ok", "ok", "both as they are",
         made(seconds=3, sound_seconds=1.0), frames=24, sound=(1, 16000, 1.0)),
    Case("long_sound.mp4", "sound of 3 s over 1 s of picture", "ok", "ok", "both as they are",
         made(sound_seconds=3.0), frames=8, sound=(1, 16000, 3.0)),
    Case("two_tracks.mkv", "two sound tracks", "ok", "ok", "the first", made(tracks=2), sound=(1, 16000, 1.0)),
    Case("silence.mp4", "every sample is zero", "ok", SILENT, "silent", made(amplitude=0.0), {"near_silence": True}),
    Case("near_silence.wav", "a hum at -84 dBFS", NO_PICTURE, "ok", "not silent; flagged near_silence",
         lambda path: pcm(path, amplitude=9e-5), {"near_silence": True}, sound=(1, 16000, 1.0)),
    Case("loud.wav", "samples beyond full scale", NO_PICTURE, "ok", "kept: log-mel is relative to its own peak",
         lambda path: pcm(path, "pcm_f32le", "flt", amplitude=4.0), {"near_silence": False}),
    Case("nan.wav", "float samples that are NaN", NO_PICTURE, BROKEN, "silent", not_a_number),
    Case("one_hertz.wav", "a header that claims 1 sample a second", NO_PICTURE, BROKEN,
         "silent: rates below 1 kHz or above 1 MHz are refused",
         lambda path: (pcm(path), path.write_bytes(claims(struct.pack("<II", 16000, 32000), struct.pack("<II", 1, 2))(
             path.read_bytes())))),
    Case("no_samples.wav", "a header and no sample", NO_PICTURE, BROKEN, "silent", content(b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\0\0\0\0")),
    # what comes along
    Case("no_sound.mp4", "picture only", "ok", NONE, "silent", made(sound=None), frames=8),
    Case("no_picture.mp4", "sound only", NO_PICTURE, "ok", "no video", made(codec=None), sound=(1, 16000, 1.0)),
    Case("cover.mp3", "MP3 with a cover", NO_PICTURE, "ok", "a cover is no video", with_cover),
    Case("cover.m4a", "M4A with a cover", NO_PICTURE, "ok", "a cover is no video", with_cover),
    Case("subtitles.mkv", "subtitles first, chapters", "ok", "ok", "ignored", with_subtitles, frames=8),
    # damage
    Case("no_index.mp4", "cut off before the index (moov)", BROKEN, BROKEN, "not used",
         damaged(without_index)),
    Case("cut.mkv", "cut off at 60 %", "ok", "ok", "the rest is used", damaged(cut(0.6), seconds=4)),
    Case("cut.webm", "WebM cut off at 60 %", "ok", "ok", "the rest is used",
         damaged(cut(0.6), seconds=4, codec="libvpx", sound="libopus", rate=48000, sound_format="flt")),
    Case("cut_faststart.mp4", "index first, then cut off at 60 %", "ok", BROKEN,
         "pictures are used; silent, as less than 90 % of the sound is there",
         damaged(cut(0.6), seconds=4, muxer={"movflags": "faststart"})),
    Case("bit_flips.mp4", "60 wrong bytes in the data", "ok", BROKEN,
         "decodable pictures are used; silent, as over 10 % of the sound's packets are broken",
         damaged(flipped, seconds=2)),
    Case("empty.mp4", "zero bytes", BROKEN, BROKEN, "not used", content(b"")),
    Case("zeros.mp4", "64 kB of zeros", BROKEN, BROKEN, "not used", content(bytes(65536))),
    # no media at all
    Case("text.mp4", "a text", BROKEN, BROKEN, "not used", content(b"This video is unavailable.\n" * 40)),
    Case("page.mp4", "a web page", BROKEN, BROKEN, "not used",
         content(b"<!DOCTYPE html><html><video src='whole.mp4'></video></html>")),
    Case("archive.mp4", "a zip archive", BROKEN, BROKEN, "not used", zipped),
    Case("packed.mp4", "gzip", BROKEN, BROKEN, "not used", content(gzip.compress(b"0" * 999, mtime=0))),
    Case("png.mp4", "a PNG picture", BROKEN, BROKEN, "not used", picture("PNG")),
    Case("jpeg.mp4", "a JPEG picture", BROKEN, BROKEN, "not used", picture("JPEG")),
    Case("gif.mp4", "a GIF of one picture", "too_short", NONE, "no video: a still picture", still),
    Case("avif.mp4", "an AVIF picture", "too_short", NONE, "no video: a still picture", picture("AVIF")),
    Case("playlist.mp4", "an HLS playlist that names another file", BROKEN, BROKEN, "never followed",
         beside(lambda path: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nwhole.mp4\n#EXT-X-ENDLIST\n")),
    Case("concat.mp4", "a concat script that names another file", BROKEN, BROKEN, "never followed",
         beside(lambda path: b"ffconcat version 1.0\nfile whole.mp4\n")),
    Case("dash.mp4", "a DASH manifest that names another file", BROKEN, BROKEN, "never followed",
         beside(lambda path: b'<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation>'
                             b"<BaseURL>whole.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>")),
    Case("sdp.mp4", "an SDP that names an address", BROKEN, BROKEN, "never followed",
         content(b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n")),
    # what stands in the folder
    Case("link.mp4", "a symbolic link to a clip", "ok", "ok",
         "followed, but not out of the media folder (refused when fetching)", link, frames=8),
    Case("loop.mp4", "a symbolic link to itself", BROKEN, BROKEN, "not used (`gone` when fetching)",
         lambda path: path.symlink_to(path.name)),
    Case("folder.mp4", "a directory", BROKEN, BROKEN, "not used (`gone` when fetching)", lambda path: path.mkdir()),
    Case("fifo.mp4", "a named pipe", BROKEN, BROKEN, "never opened (`gone` when fetching)", lambda path: os.mkfifo(path)),
    Case("Übung 视频 🎬 %d.mp4", "unicode, blanks and % in the name", "ok", "ok", "as it is", made(), frames=8),
    Case("wrong_suffix.txt", "a clip named .txt", "ok", "ok", "the content decides", made(container="mp4"), frames=8),
]  # fmt: skip


def table() -> str:
    """The Markdown table of all cases."""
    lines = [
        "| file | content | video | audio | treatment |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| `{c.name}` | {c.what} | {c.video} | {c.audio} | {c.done} |" for c in CASES]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    before, _, rest = DOCS.read_text().partition(BEGIN)
    DOCS.write_text(before + BEGIN + table() + END + rest.partition(END)[2])

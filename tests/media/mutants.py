"""Small media files of every container, and seeded damage done to them."""

import numpy as np
from synthetic import make_clip

KINDS = {  # name: (container, video codec, audio codec)
    "a.mp4": ("mp4", "libx264", "aac"),
    "b.mkv": ("matroska", "libx265", "flac"),
    "c.webm": ("webm", "libvpx", "libopus"),
    "d.avi": ("avi", "mpeg4", "libmp3lame"),
    "e.mpg": ("mpeg", "mpeg2video", "mp2"),
    "f.ts": ("mpegts", "libx264", "mp2"),
    "g.flv": ("flv", "flv", "libmp3lame"),
    "h.mov": ("mov", "mjpeg", "pcm_s16le"),
    "i.nut": ("nut", "ffv1", "pcm_f32le"),
    "j.asf": ("asf", "wmv2", "libmp3lame"),
    "k.ogg": ("ogg", None, "libopus"),
    "l.wav": ("wav", None, "pcm_s24le"),
    "m.flac": ("flac", None, "flac"),
    "n.mp3": ("mp3", None, "libmp3lame"),
    "o.gif": ("gif", "gif", None),
    "p.mxf": ("mxf", "mpeg2video", "pcm_s16le"),
    "q.webm": ("webm", "libvpx-vp9", "libopus"),
}
SAMPLE_RATES = {"flv": 44100, "asf": 44100}


def originals(folder) -> dict[str, bytes]:
    """Half a second of picture and sound in each kind of file."""
    files = {}
    for name, (container, video, audio) in KINDS.items():
        path = folder / name
        make_clip(
            path,
            seconds=0.5,
            fps=25 if container in ("mpeg", "mpegts", "mxf") else 8,
            size=(64, 48),
            sound=("stereo", SAMPLE_RATES.get(container, 48000)) if audio else None,
            format=container,
            pictures=bool(video),
            codecs=(video, audio),
            pix_fmt={"mjpeg": "yuvj420p", "gif": "rgb8"}.get(video, "yuv420p"),
        )
        files[name] = path.read_bytes()
    return files


def mutant(data: bytes, chance: np.random.Generator) -> bytes:
    """One to eight strokes of damage: bits, bytes, extreme numbers, cuts, repeats, swaps, zeros."""
    damaged = bytearray(data)
    for _ in range(int(chance.integers(1, 9))):
        size = len(damaged)
        if size < 16:
            break
        # headers are small, and where the damage is worst
        reach = size if chance.random() < 0.5 else min(size, 600)
        at = int(chance.integers(0, reach - 8))
        length = int(chance.integers(1, max(2, size // 4)))
        match int(chance.integers(9)):
            case 0:
                damaged[at] ^= 1 << int(chance.integers(8))
            case 1:
                damaged[at] = int(chance.integers(256))
            case 2:
                extreme = (b"\0", b"\xff", b"\x7f\xff", b"\x80\0", b"\0\0\0\1")
                stamp = extreme[int(chance.integers(5))].ljust(4, b"\xff")
                damaged[at : at + 4] = stamp
            case 3:
                del damaged[at : at + length]
            case 4:
                damaged[at:at] = damaged[at : at + length]
            case 5:
                del damaged[int(chance.integers(size // 8, size)) :]
            case 6:
                damaged[at : at + length] = chance.bytes(length)
            case 7:
                damaged += bytes(int(chance.integers(1, 100_000)))
            case 8:
                damaged += data[int(chance.integers(0, len(data))) :]
    return bytes(damaged)

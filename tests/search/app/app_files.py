"""Clips in formats that browsers play and do not play."""

import subprocess
from pathlib import Path

import imageio_ffmpeg

DEMO = Path(__file__).parents[3] / "demo" / "clips"
FILM, SPEECH, SILENT = DEMO / "bbb_040.mp4", DEMO / "say_dog.mp4", DEMO / "bbb_030.mp4"
OTHER, THIRD = DEMO / "bbb_050.mp4", DEMO / "bbb_060.mp4"
FORMATS = {  # name -> (options of ffmpeg, media type or None)
    "whole.mp4": ("-c copy", "video/mp4"),
    "old.avi": ("-c:v mpeg4 -c:a mp3", None),
    "film.mkv": ("-c copy", None),
    "stream.ts": ("-c copy", None),
    "raw.h264": ("-an -c copy", None),
    "web.webm": ("-t 3 -c:v libvpx -deadline realtime -c:a libopus", "video/webm"),
    "sound.wav": ("-vn", "audio/wav"),
    "sound.mp3": ("-vn", "audio/mpeg"),
    "sound.flac": ("-vn", "audio/flac"),
    "sound.ogg": ("-vn -c:a libopus", "audio/ogg"),
    "sound.wma": ("-vn -c:a wmav2", None),
    "deep.mp4": ("-t 3 -pix_fmt yuv420p10le -c:v libx264 -preset ultrafast", None),
}


def convert(source, out, options):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(source)]
    subprocess.run([*command, *options.split(), str(out)], check=True)
    return out


def made(folder, name, source=FILM):
    """A film of ten seconds in one of FORMATS."""
    return convert(source, folder / name, FORMATS[name][0])

"""The demo's synthetic world: small generated clips that sight and hearing tell apart together.

Each clip shows a glyph in one of four colours while one of eight things sounds, and its caption
tells the colour and the sound. The 32 test clips are one of each kind: whoever only sees finds one
of eight alike, whoever only hears one of four. A clip is a function of its number alone.

    python demo/demo_world.py     # writes world.csv, the table of the clips
"""

import csv
import io
import sys
from pathlib import Path

import av
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from learning import pictures, sounds  # noqa: E402
from learning.world import VERBS  # noqa: E402

from clip4vla.common.files import whole_file, write_text  # noqa: E402

TABLE = HERE / "world.csv"
FPS = 5
COLOURS, THINGS = tuple(pictures.COLOURS), pictures.THINGS
KINDS = len(COLOURS) * len(THINGS)
SPLITS = {"train": 6 * KINDS, "val": KINDS, "test": KINDS}  # clips, in the order of their numbers
CLIPS = sum(SPLITS.values())


def file_name(number: int) -> str:
    """Name of a clip's file."""
    return f"world_{number:03d}.mp4"


def colour_and_thing(number: int) -> tuple[str, str]:
    """What is seen and what is heard: every kind as often as any other."""
    return COLOURS[number % len(COLOURS)], THINGS[number // len(COLOURS) % len(THINGS)]


def split_of(number: int) -> str:
    """train, val or test."""
    return [split for split, clips in SPLITS.items() for _ in range(clips)][number]


def table() -> str:
    """The text of world.csv: id, file, split and caption of every clip."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["id", "file", "split", "caption"])
    for number in range(CLIPS):
        colour, thing = colour_and_thing(number)
        name, caption = file_name(number), f"something {colour}, {VERBS[thing]}"
        lines.writerow([Path(name).stem, name, split_of(number), caption])
    return text.getvalue()


def write_clip(number: int, path: Path) -> None:
    """Draw and synthesise a clip of `sounds.SECONDS`; equal numbers give equal bytes."""
    rng = np.random.default_rng(number)
    colour, thing = colour_and_thing(number)
    seen = [(str(rng.choice(THINGS)), colour)]
    picture = pictures.draw(seen, str(rng.choice(list(pictures.PLACES))), rng)
    sound = sounds.mix([], [thing], "events", rng)
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with whole_file(path) as temporary, av.open(str(temporary), "w", "mp4", options=options) as out:
        video = out.add_stream("libx264", FPS, options={"preset": "ultrafast", "threads": "1"})
        video.height, video.width = picture.shape[:2]
        audio = out.add_stream("aac", sounds.RATE, layout="mono")
        frame = av.VideoFrame.from_ndarray(picture)
        for at in range(round(sounds.SECONDS * FPS)):
            frame.pts = at
            out.mux(video.encode(frame))
        samples = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        samples.rate = sounds.RATE
        out.mux(audio.encode(samples))
        for stream in (video, audio):
            out.mux(stream.encode())


if __name__ == "__main__":
    write_text(TABLE, table())

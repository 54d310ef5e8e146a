"""Fake decoders: clips of noise that need no media."""

from pathlib import Path

import numpy as np

# clip id -> seconds, channels (0: silent), shard
CLIPS = {
    "alpha": (2.5, 1, 0),
    "bravo": (4.0, 2, 0),
    "charlie": (3.0, 0, 0),
    "delta": (1.784, 1, 1),
    "echo": (15.0, 1, 1),
    "x" * 100: (1.0, 2, 1),
}


def rng_of(path):
    return np.random.default_rng(len(Path(path).stem) * 1000 + ord(Path(path).stem[0]))


def fake_audio(path):
    seconds, channels, _ = CLIPS[Path(path).stem]
    samples = rng_of(path).standard_normal((channels, int(seconds * 16000)))
    return (0.1 * samples).astype(np.float32), 16000


def fake_frames(path, fps, seconds=None):
    seconds = seconds or CLIPS[Path(path).stem][0]
    for _ in range(max(int(seconds * fps), 1)):
        yield rng_of(path).integers(0, 255, size=(48, 64, 3), dtype=np.uint8)

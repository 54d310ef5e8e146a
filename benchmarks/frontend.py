"""How fast the audio front-end is against three librosa spectrograms per clip, as released.

    python -m pip install librosa    # not a dependency: it serves this comparison only
    python benchmarks/frontend.py

Both sides make left, mean and right log-mel spectrograms of the same 10 s clips at 16 kHz. For mono
the released code makes the same spectrogram three times and this project one. Then the same for
kaldi's filter banks against torchaudio's `fbank`, once per channel, and for drawing the masks of a
clip against one at a time: both sides draw the same numbers, so their masks are equal.
"""

import bench
import numpy as np
import torch
from torchaudio.compliance import kaldi
from usual import RATE, spectrograms

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.config.data import LogMel
from clip4vla.config.sections import Masking
from clip4vla.loading.masking import draw_masks

SECONDS = 10
STEPS, BANDS = 1251, 224  # of 10 s
MASKED = 100  # clips
FLOAT32 = 3e-3  # of a power: what its rounding changes in a small one among large ones


def filter_banks(clip):
    """Three of torchaudio's filter banks of a clip [2, n], or one of [1, n]; [C, T, 224]."""
    channels = [clip[0], (clip[0] + clip[1]) / 2, clip[1]] if len(clip) == 2 else [clip[0]]
    return np.stack(
        [
            kaldi.fbank(
                torch.from_numpy(wave[None]),
                num_mel_bins=BANDS,
                frame_length=32.0,
                frame_shift=8.0,
                low_freq=0.0,
                window_type="hamming",
            ).numpy()
            for wave in channels
        ]
    )


def masks_one_by_one(rng):
    """The masks of a clip as in the released code: a draw and a slice for each."""
    bands, steps = np.zeros(BANDS, bool), np.zeros(STEPS, bool)
    for axis, share in ((bands, 0.05), (steps, 0.15)):
        widths = [rng.integers(0, 10) for _ in range(int(len(axis) * share))]
        for width in widths:
            start = rng.integers(0, len(axis) - width, endpoint=True)
            axis[start : start + width] = True
    return steps, bands


def parser():
    made = bench.parser(__doc__, rounds=5)
    made.add_argument("--clips", type=int, default=8)
    return made


def rows(options):
    mel = LogMelFrontend(LogMel())
    fbank = LogMelFrontend(LogMel(kind="fbank", window="hamming"))
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal((options.clips, 2, RATE * SECONDS))).astype(np.float32)
    common = {"options": options, "per": options.clips}

    def each(function, items):
        return lambda: [function(item) for item in items]

    for kind, clips in (("stereo", noise), ("mono", noise[:, :1])):
        pairs = clips.repeat(3 - clips.shape[1], axis=1)  # the released code has two channels
        yield bench.compare(
            f"log-mel of a {kind} clip of {SECONDS} s",
            each(lambda clip: mel(clip, RATE), clips),
            each(lambda clip: spectrograms(*clip), pairs),
            against="three librosa spectrograms",
            needs=["librosa"],
            note=difference(unit=10 / np.log(10)),
            **common,
        )
        yield bench.compare(
            f"filter banks of a {kind} clip",
            each(lambda clip: fbank(clip, RATE), clips),
            each(filter_banks, clips),
            against="torchaudio's fbank",
            note=difference(unit=1),
            **common,
        )
    yield bench.compare(
        "masks of a clip",
        each(
            lambda seed: draw_masks(STEPS, BANDS, Masking(), np.random.default_rng(seed)),
            range(MASKED),
        ),
        each(lambda seed: masks_one_by_one(np.random.default_rng(seed)), range(MASKED)),
        against="one draw for each mask",
        options=options,
        per=MASKED,
        note=masks_that_differ,
    )


def difference(unit):
    """Make a note of log-mels: half precision and float32 may round them, whose e is `unit`."""

    def note(ours, baseline):
        both = [[np.asarray(x, np.float32) for x in side.result] for side in (ours, baseline)]
        worst = max(np.abs(a - b).max() for a, b in zip(*both, strict=True))
        largest = max(np.abs(x).max() for x in both[0])
        most = np.spacing(np.float16(largest)) / 2 + unit * FLOAT32
        return bench.agreed("greatest difference", worst, most)

    return note


def masks_that_differ(ours, baseline):
    same = [
        all(map(np.array_equal, a, b)) for a, b in zip(ours.result, baseline.result, strict=True)
    ]
    steps, bands = (np.mean([masks[axis] for masks in ours.result]) for axis in (0, 1))
    different = bench.agreed(f"clips of {MASKED} whose masks differ:", same.count(False), 0)
    return f"{different}; {steps:.1%} of steps and {bands:.1%} of bands masked"


if __name__ == "__main__":
    bench.main(parser(), rows)

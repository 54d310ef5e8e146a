"""How fast the audio front-end is against three librosa spectrograms per clip, as released.

    python -m pip install librosa    # not a dependency: it serves this comparison only
    python benchmarks/frontend.py

Both sides make left, mean and right log-mel spectrograms of the same 10 s clips at 16 kHz, on one
thread, in turn in one run; the medians are compared. For mono the released code makes the same
spectrogram three times and this project one. Then the same for kaldi's filter banks against
torchaudio's `fbank`, once per channel, and for drawing the masks of a clip against one at a time.
"""

import os

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))  # read when the libraries are first imported

import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchaudio  # noqa: E402
from torchaudio.compliance import kaldi  # noqa: E402

from clip4vla.cache.log_mel import LogMelFrontend  # noqa: E402
from clip4vla.config.data import LogMel  # noqa: E402
from clip4vla.config.sections import Masking  # noqa: E402
from clip4vla.loading.masking import draw_masks  # noqa: E402

RATE, SECONDS, CLIPS, ROUNDS = 16000, 10, 8, 5
STEPS = 1251  # frames of 10 s


def released(librosa, clip):
    """Three spectrograms of a clip [2, n] with librosa, [3, T, 224]."""
    channels = []
    for wave in (clip[0], (clip[0] + clip[1]) / 2, clip[1]):
        mel = librosa.feature.melspectrogram(
            y=wave, sr=RATE, n_fft=512, hop_length=128, n_mels=224, fmin=0.0, fmax=8000.0
        )
        channels.append(librosa.power_to_db(mel).T)
    return np.stack(channels)


def filter_banks(clip):
    """Three of torchaudio's filter banks of a clip [2, n], or one of [1, n]; [C, T, 224]."""
    channels = [clip[0], (clip[0] + clip[1]) / 2, clip[1]] if len(clip) == 2 else [clip[0]]
    return np.stack(
        [
            kaldi.fbank(
                torch.from_numpy(wave[None]),
                num_mel_bins=224,
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
    covered = np.zeros(STEPS, bool), np.zeros(224, bool)
    for axis, share in zip(covered, (0.15, 0.05), strict=True):
        for _ in range(int(len(axis) * share)):
            width = rng.integers(0, 10)
            start = rng.integers(0, len(axis) - width, endpoint=True)
            axis[start : start + width] = True
    return covered


def seconds_per_clip(function, clips):
    begin = time.perf_counter()
    for clip in clips:
        function(clip)
    return (time.perf_counter() - begin) / len(clips)


def compare(name, baseline, ours, theirs, clips, note=""):
    """Print the medians of both sides, each measured in turn."""
    times = [
        (seconds_per_clip(baseline, theirs), seconds_per_clip(ours, clips)) for _ in range(ROUNDS)
    ]
    slow, fast = (1e3 * statistics.median(side) for side in zip(*times, strict=True))
    print(f"{name}  {slow:7.2f} ms  ours {fast:6.2f} ms  {slow / fast:5.1f} times as fast{note}")


def main():
    try:
        import librosa
    except ImportError:
        print("librosa is not installed: python -m pip install librosa", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    mel = LogMelFrontend(LogMel())
    fbank = LogMelFrontend(LogMel(kind="fbank", window="hamming"))
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal((CLIPS, 2, RATE * SECONDS))).astype(np.float32)
    print(f"{CLIPS} clips of {SECONDS} s, one thread, median of {ROUNDS} rounds")
    libraries = {"librosa": librosa, "torch": torch, "torchaudio": torchaudio, "numpy": np}
    print(", ".join(f"{name} {module.__version__}" for name, module in libraries.items()))
    for name, clips in (("stereo", noise), ("mono  ", noise[:, :1])):
        pairs = clips.repeat(3 - clips.shape[1], axis=1)  # the released code has two channels
        difference = np.abs(mel.compute(clips[0], RATE).numpy() - released(librosa, pairs[0])).max()
        note = f"  (largest difference {difference:.4f} dB)"
        compare(
            f"{name} librosa",
            lambda c: released(librosa, c),
            lambda c: mel(c, RATE),
            pairs,
            clips,
            note,
        )
        difference = np.abs(fbank.compute(clips[0], RATE).numpy() - filter_banks(clips[0])).max()
        note = f"  (largest difference {difference:.6f})"
        compare(f"{name} fbank  ", filter_banks, lambda c: fbank(c, RATE), clips, clips, note)
    seeds = range(100)
    compare(
        "masks of a clip",
        lambda seed: masks_one_by_one(np.random.default_rng(seed)),
        lambda seed: draw_masks(STEPS, 224, Masking(), np.random.default_rng(seed)),
        seeds,
        seeds,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

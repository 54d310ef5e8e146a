"""How fast the audio front-end is against three librosa spectrograms per clip, as released.

    python -m pip install librosa    # not a dependency: it serves this comparison only
    python benchmarks/frontend.py

Both sides make left, mean and right log-mel spectrograms of the same 10 s clips at 16 kHz, on one
thread, in turn in one run; the medians are compared. For mono the released code makes the same
spectrogram three times and this project one.
"""

import os

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))  # read when the libraries are first imported

import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from clip4vla.config.data import LogMel  # noqa: E402
from clip4vla.features.log_mel import LogMelFrontend  # noqa: E402

RATE, SECONDS, CLIPS, ROUNDS = 16000, 10, 8, 5


def released(librosa, clip):
    """Three spectrograms of a clip [2, n] with librosa, [3, T, 224]."""
    channels = []
    for wave in (clip[0], (clip[0] + clip[1]) / 2, clip[1]):
        mel = librosa.feature.melspectrogram(
            y=wave, sr=RATE, n_fft=512, hop_length=128, n_mels=224, fmin=0.0, fmax=8000.0
        )
        channels.append(librosa.power_to_db(mel).T)
    return np.stack(channels)


def seconds_per_clip(function, clips):
    begin = time.perf_counter()
    for clip in clips:
        function(clip)
    return (time.perf_counter() - begin) / len(clips)


def main():
    try:
        import librosa
    except ImportError:
        print("librosa is not installed: python -m pip install librosa", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    front_end = LogMelFrontend(LogMel())
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal((CLIPS, 2, RATE * SECONDS))).astype(np.float32)
    print(f"{CLIPS} clips of {SECONDS} s, one thread, median of {ROUNDS} rounds")
    for name, ours, theirs in (
        ("stereo", noise, noise),
        ("mono", noise[:, :1], noise[:, :1].repeat(2, axis=1)),
    ):
        expected = released(librosa, theirs[0])
        difference = np.abs(front_end.compute(ours[0], RATE).numpy() - expected).max()
        times = [
            (
                seconds_per_clip(lambda clip: released(librosa, clip), theirs),
                seconds_per_clip(lambda clip: front_end(clip, RATE), ours),
            )
            for _ in range(ROUNDS)
        ]
        slow, fast = (statistics.median(side) for side in zip(*times, strict=True))
        print(
            f"{name:6}  librosa {1e3 * slow:6.1f} ms  front-end {1e3 * fast:6.1f} ms  "
            f"{slow / fast:5.1f} times as fast  (largest difference {difference:.4f} dB)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the usual code of this field does, as a baseline; and made-up clips in a frozen dataset."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from clip4vla.cache.manifest import freeze
from clip4vla.cache.shards import build_shard
from clip4vla.common.files import write_parquet
from clip4vla.config.data import Cache

RATE = 16000
MOST_FRAMES = 4  # of 255, what JPEGs of quality 90 differ by: steps of 13, rounded, are 13 / 3.5


def spectrogram(wave: np.ndarray) -> np.ndarray:
    """Return a log-mel spectrogram by librosa, as released, [T, 224]; it makes its filters anew."""
    import librosa

    mel = librosa.feature.melspectrogram(
        y=wave, sr=RATE, n_fft=512, hop_length=128, n_mels=224, fmin=0.0, fmax=8000.0
    )
    return librosa.power_to_db(mel).T


def spectrograms(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return those of left, mean and right, [3, T, 224]."""
    return np.stack([spectrogram(wave) for wave in (left, (left + right) / 2, right)])


def frozen(
    folder: Path,
    seconds: dict[str, float],
    sound: Callable[[str], np.ndarray],
    pictures: Callable[[str], Iterable[np.ndarray]],
    version: str,
) -> Path:
    """Build a dataset version of one shard and split `s` from the lengths of clips by name.

    sound: a clip's samples [channels, n]; pictures: its frames [H, W, 3]. Returns the manifest.
    """
    shared = {"shard": 0, "start": 0.0, "fetch": "ok", "video": "ok", "audio": "ok"}
    shared |= {"sound": "unknown", "tool": "", "decoder": ""}
    rows = [
        {"clip_id": name, "path": str(folder / f"{name}.mp4"), "end": length, "duration": length}
        | shared
        for name, length in seconds.items()
    ]
    for row in rows:
        Path(row["path"]).touch()
    ledger, index = pd.DataFrame(rows), folder / "shards" / "0.parquet"
    table = build_shard(
        ledger,
        Cache(),
        index.with_suffix(".tar"),
        decode_audio=lambda path: (sound(Path(path).stem), RATE),
        decode_frames=lambda path, fps, end: iter(pictures(Path(path).stem)),
    )
    write_parquet(index, table)
    splits = [{"split": "s", "clip_id": n, "captions": ["a"], "labels": []} for n in seconds]
    freeze(ledger, pd.DataFrame(splits), [index], version, Cache(), folder)
    return folder / "manifest.json"

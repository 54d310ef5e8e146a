"""How fast a shard is built, against ffmpeg to JPEG and wav files plus three librosa spectrograms.

    python -m pip install librosa soundfile    # not dependencies: they serve this comparison only
    python benchmarks/shard_build.py [FOLDER OF VIDEOS]

Both sides turn the same clips (the demo's without a folder) into one frame a second, short side
224, as JPEG, and into left, mean and right log-mel spectrograms in float16. The usual way runs the
ffmpeg of imageio-ffmpeg once per clip, reads its wav file back, and saves one npy file. CPU time is
compared, that of ffmpeg's processes included, on one thread each, in turn; the whole shard counts,
with its hashes and its index.
"""

import os

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))  # read when the libraries are first imported

import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import av  # noqa: E402
import imageio_ffmpeg  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from clip4vla.cache.shards import build_shard  # noqa: E402
from clip4vla.common.device import set_threads  # noqa: E402
from clip4vla.common.files import write_parquet  # noqa: E402
from clip4vla.config.data import Cache  # noqa: E402
from clip4vla.media.probe import probe_shard  # noqa: E402

DEMO = Path(__file__).parents[1] / "demo" / "clips"
CLIPS, ROUNDS = 16, 3
SCALE = "scale='if(gt(iw,ih),-2,224)':'if(gt(iw,ih),224,-2)':flags=bicubic"


def ledger_of(folder):
    """What the ledger says of the videos that have sound."""
    paths = sorted(folder.glob("*.mp4"))[: 2 * CLIPS]
    fetched = pd.DataFrame(
        [{"clip_id": path.stem, "fetch": "ok", "path": str(path)} for path in paths]
    )
    rows = fetched.merge(probe_shard(fetched), on="clip_id")
    rows = rows[(rows.video == "ok") & (rows.audio == "ok")][:CLIPS]
    return rows.assign(shard=0, start=float("nan"), end=float("nan"))


def usual(rows, out, librosa, soundfile):
    """JPEGs, a wav file and an npy file per clip."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    for row in rows.itertuples():
        folder = out / row.clip_id
        folder.mkdir(parents=True)
        command = [ffmpeg, "-v", "error", "-threads", "1", "-i", row.path]
        command += ["-vf", f"fps=1,{SCALE}", "-q:v", "2", str(folder / "%06d.jpg")]
        command += ["-ar", "16000", "-ac", "2", "-c:a", "pcm_s16le", str(folder / "sound.wav")]
        subprocess.run(command, check=True)
        sound, _ = soundfile.read(folder / "sound.wav", dtype="float32", always_2d=True)
        left, right = sound.T
        log_mel = [spectrogram(librosa, wave) for wave in (left, (left + right) / 2, right)]
        np.save(folder / "log_mel.npy", np.stack(log_mel).astype(np.float16))


def spectrogram(librosa, wave):
    mel = librosa.feature.melspectrogram(
        y=wave, sr=16000, n_fft=512, hop_length=128, n_mels=224, fmin=0.0, fmax=8000.0
    )
    return librosa.power_to_db(mel).T


def shard(rows, out):
    """One tar and its index."""
    write_parquet(out / "0.parquet", build_shard(rows, Cache(), out / "0.tar"))


def cpu_seconds(function):
    """CPU seconds of this process and its children, and what was written, bytes."""
    with tempfile.TemporaryDirectory() as home:
        out, before = Path(home) / "out", sum(os.times()[:4])
        out.mkdir()
        function(out)
        seconds = sum(os.times()[:4]) - before
        return seconds, sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def main():
    try:
        import librosa
        import soundfile
    except ImportError:
        print("needed: python -m pip install librosa soundfile", file=sys.stderr)
        return 1
    set_threads(1)
    rows = ledger_of(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO)
    print(
        f"{len(rows)} clips, {rows.duration.sum():.0f} s of video, one thread, median CPU time of "
        f"{ROUNDS} rounds; ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}, av {av.__version__}, "
        f"torch {torch.__version__}, librosa {librosa.__version__}"
    )
    sides = (lambda out: usual(rows, out, librosa, soundfile)), (lambda out: shard(rows, out))
    measured = []
    for _ in range(ROUNDS + 1):
        measured.append([cpu_seconds(side) for side in sides])
    slow, fast = ([one[side][0] for one in measured[1:]] for side in (0, 1))  # the first warms up
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    for name, seconds, written in (
        ("ffmpeg and librosa", statistics.median(slow), measured[0][0][1]),
        ("shard", statistics.median(fast), measured[0][1][1]),
    ):
        each = seconds / len(rows)
        print(
            f"{name:18} {1 / each:6.1f} clips/s and core, {1e3 * each:6.1f} ms and "
            f"{written / len(rows) / 1e3:7.1f} kB a clip"
        )
    ratio = statistics.median(slow) / statistics.median(fast)
    print(f"{ratio:.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

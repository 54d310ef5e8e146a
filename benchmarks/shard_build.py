"""How fast a shard is built, against ffmpeg to JPEG and wav files plus three librosa spectrograms.

    python -m pip install librosa soundfile    # not dependencies: they serve this comparison only
    python benchmarks/shard_build.py [FOLDER OF VIDEOS] [--clips 16]

Both sides turn the same clips (the demo's without a folder) into one frame a second, short side
224, as JPEG, and into left, mean and right log-mel spectrograms in float16. The usual way runs the
ffmpeg of imageio-ffmpeg once per clip, reads its wav file back, and saves one npy file. CPU time
counts that of ffmpeg's processes, on one thread each; the whole shard counts, with its hashes and
its index. The demo's clips are mono: ours makes one spectrogram of them, the usual way three.
"""

import subprocess
import tempfile
from pathlib import Path

import bench
import imageio_ffmpeg
import numpy as np
import pandas as pd
from usual import spectrograms

from clip4vla.cache.shards import build_shard
from clip4vla.common.files import write_parquet
from clip4vla.config.data import Cache
from clip4vla.media.probe import probe_shard

SCALE = "scale='if(gt(iw,ih),-2,224)':'if(gt(iw,ih),224,-2)':flags=bicubic"


def ledger_of(folder, clips):
    """What the ledger says of the videos that have sound."""
    paths = sorted(folder.glob("*.mp4"))[: 2 * clips]
    fetched = pd.DataFrame(
        [{"clip_id": path.stem, "fetch": "ok", "path": str(path)} for path in paths]
    )
    rows = fetched.merge(probe_shard(fetched), on="clip_id")
    rows = rows[(rows.video == "ok") & (rows.audio == "ok")][:clips]
    return rows.assign(shard=0, start=float("nan"), end=float("nan"))


def usual(rows, out):
    """JPEGs, a wav file and an npy file per clip."""
    import soundfile

    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    for row in rows.itertuples():
        folder = out / row.clip_id
        folder.mkdir(parents=True)
        command = [ffmpeg, "-v", "error", "-threads", "1", "-i", row.path]
        command += ["-vf", f"fps=1,{SCALE}", "-q:v", "2", str(folder / "%06d.jpg")]
        command += ["-ar", "16000", "-ac", "2", "-c:a", "pcm_s16le", str(folder / "sound.wav")]
        subprocess.run(command, check=True)
        sound, _ = soundfile.read(folder / "sound.wav", dtype="float32", always_2d=True)
        np.save(folder / "log_mel.npy", spectrograms(*sound.T).astype(np.float16))


def shard(rows, out):
    """One tar and its index."""
    write_parquet(out / "0.parquet", build_shard(rows, Cache(), out / "0.tar"))


def parser():
    made = bench.parser(__doc__, rounds=3)
    made.add_argument("folder", type=Path, nargs="?", default=bench.DEMO, help="of videos")
    made.add_argument("--clips", type=int, default=16)
    return made


def rows(options):
    clips = ledger_of(options.folder, options.clips)

    def written(make):
        """Call a side on an empty folder; return the kilobytes that it wrote."""
        with tempfile.TemporaryDirectory() as home:
            make(clips, Path(home))
            return sum(p.stat().st_size for p in Path(home).rglob("*") if p.is_file()) / 1e3

    yield bench.compare(
        f"a clip, of {len(clips)} with {clips.duration.sum():.0f} s of video",
        lambda: written(shard),
        lambda: written(usual),
        against="ffmpeg, wav, librosa",
        options=options,
        per=len(clips),
        needs=["librosa", "soundfile"],
        note=lambda ours, baseline: (
            f"{ours.result / len(clips):.0f} against {baseline.result / len(clips):.0f} kB a clip"
        ),
    )


if __name__ == "__main__":
    bench.main(parser(), rows, code=["clip4vla/cache", "clip4vla/media"])

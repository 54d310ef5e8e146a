"""How fast a shard is built, against ffmpeg to JPEG and wav files plus librosa spectrograms.

    python -m pip install librosa soundfile    # not dependencies: they serve this comparison only
    python benchmarks/shard_build.py [FOLDER OF VIDEOS] [--clips 16]

Both sides turn the same clips (the demo's without a folder) into one frame a second, short side
224, as JPEG, and into log-mel spectrograms in float16. The usual way runs the ffmpeg of
imageio-ffmpeg once per clip, reads its wav file back, and saves one npy file. CPU time counts that
of ffmpeg's processes, on one thread each; the whole shard counts, with its hashes and its index.

The sound of the clips is encoded anew before, once as mono and once as stereo, whose second channel
is a later, quieter copy of the first. Of stereo both sides make three spectrograms: left, mean and
right. Of mono ours makes one; the usual way makes three equal ones, as released, and in a row of
its own only one. ffmpeg is asked for the picture that is shown at every second, in JPEG's colours.
"""

import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import bench
import imageio_ffmpeg
import numpy as np
import pandas as pd
from PIL import Image
from usual import MOST_FRAMES, spectrogram, spectrograms

from clip4vla.cache.shards import build_shard
from clip4vla.common.files import write_parquet
from clip4vla.config.data import Cache
from clip4vla.media.probe import probe_shard

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
SOUND = {
    1: "aformat=channel_layouts=mono",
    2: "aformat=channel_layouts=mono,asplit[a][b];[b]adelay=20,volume=0.7[c];[a][c]join",
}
SCALE = "scale='if(gt(iw,ih),-2,224)':'if(gt(iw,ih),224,-2)':flags=bicubic:out_color_matrix=bt601"
MOST_SOUND = 0.5  # dB: 16 bits of a wav file round next to nothing in bands that are that loud
LOUD = 40  # dB below the loudest band of a clip, at most
PADDING = 8  # steps: ffmpeg ends with the container, ours with the last packet (1,024 samples)
EDGE = 2  # steps whose windows reach beyond the end


def ledger_of(folder, clips):
    """What the ledger says of the videos that have sound."""
    paths = sorted(folder.glob("*.mp4"))[: 2 * clips]
    fetched = pd.DataFrame(
        [{"clip_id": path.stem, "fetch": "ok", "path": str(path)} for path in paths]
    )
    rows = fetched.merge(probe_shard(fetched), on="clip_id")
    rows = rows[(rows.video == "ok") & (rows.audio == "ok")][:clips]
    return rows.assign(shard=0, start=float("nan"), end=float("nan"))


def encoded(rows, channels, folder):
    """The clips with their sound encoded anew as mono or stereo; their ledger."""
    for row in rows.itertuples():
        command = [FFMPEG, "-v", "error", "-i", row.path, "-map", "0:v:0", "-map", "0:a:0"]
        command += ["-c:v", "copy", "-filter:a", SOUND[channels], "-c:a", "aac"]
        subprocess.run([*command, str(folder / f"{row.clip_id}.mp4")], check=True)
    return ledger_of(folder, len(rows))


def usual(rows, out, channels, spectrograms):
    """JPEGs, a wav file and an npy file per clip."""
    import soundfile

    for row in rows.itertuples():
        folder = out / row.clip_id
        folder.mkdir(parents=True)
        command = [FFMPEG, "-v", "error", "-filter_threads", "1", "-threads", "1", "-i", row.path]
        command += ["-vf", f"fps=1:round=up,{SCALE}", "-q:v", "2", "-threads", "1"]
        command += [str(folder / "%06d.jpg"), "-ar", "16000", "-ac", str(channels)]
        command += ["-c:a", "pcm_s16le", str(folder / "sound.wav")]
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
    bench.require("librosa", "soundfile")
    found = ledger_of(options.folder, options.clips)
    three = "ffmpeg, wav, three librosa spectrograms"
    for kind, channels, makes in (
        ("stereo", 2, {three: spectrograms}),
        (
            "mono",
            1,
            {
                f"{three}, all equal": lambda wave: spectrograms(wave, wave),
                "ffmpeg, wav, one librosa spectrogram": lambda wave: spectrogram(wave)[None],
            },
        ),
    ):
        with tempfile.TemporaryDirectory() as home:
            clips = encoded(found, channels, Path(home))
            for against, make in makes.items():
                yield compared(kind, clips, channels, against, make, options)


def compared(kind, clips, channels, against, make, options):
    with tempfile.TemporaryDirectory() as home:
        out, files = Path(home) / "shard", Path(home) / "files"

        def side(folder, write):
            """Call a side on an empty folder; return the kilobytes that it wrote."""
            shutil.rmtree(folder, ignore_errors=True)
            write(folder)
            return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e3

        def note(ours, baseline):
            sound, frames = np.max(
                [differences(name, out, files) for name in clips.clip_id], axis=0
            )
            sizes = [f"{one.result / len(clips):.0f}" for one in (ours, baseline)]
            return (
                f"{' against '.join(sizes)} kB a clip; root mean squares: "
                f"{bench.agreed('loud bands differ by', sound, MOST_SOUND)} dB, "
                f"{bench.agreed('frames by', frames, MOST_FRAMES)} of 255"
            )

        return bench.compare(
            f"a {kind} clip, of {len(clips)} with {clips.duration.sum():.0f} s of video",
            lambda: side(out, lambda folder: shard(clips, folder)),
            lambda: side(files, lambda folder: usual(clips, folder, channels, make)),
            against=against,
            options=options,
            per=len(clips),
            note=note,
        )


def differences(clip_id, out, files):
    """Root mean squares of the differences of a clip: of loud bands, and of its worst frame."""
    with tarfile.open(out / "0.tar") as tar:
        members = {
            name.removeprefix(f"{clip_id}."): io.BytesIO(tar.extractfile(name).read())
            for name in tar.getnames()
            if name.startswith(f"{clip_id}.")
        }
    jpegs = sorted((files / clip_id).glob("*.jpg"))
    ours = [members[name] for name in sorted(members) if name.endswith(".jpg")]
    bench.agreed("frames that one side lacks:", abs(len(ours) - len(jpegs)), 0)
    frames = [rms(picture(a) - picture(b)) for a, b in zip(ours, jpegs, strict=True)]
    files = members["logmel.npy"], files / clip_id / "log_mel.npy"
    ours, theirs = (np.load(log_mel).astype(np.float32) for log_mel in files)
    lengths = ours.shape[1], theirs.shape[1]
    bench.agreed("steps that one side lacks:", abs(lengths[0] - lengths[1]), PADDING)
    ours, theirs = (log_mel[:, : min(lengths) - EDGE] for log_mel in (ours, theirs))
    loud = theirs > theirs.max() - LOUD
    return rms((ours - theirs)[loud]), max(frames)


def picture(file):
    return np.asarray(Image.open(file).convert("RGB"), np.float32)


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


if __name__ == "__main__":
    bench.main(parser(), rows, code=["clip4vla/cache", "clip4vla/media"])

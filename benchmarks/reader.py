"""How fast samples come out of the shards, against the usual loader of this field.

    python -m pip install librosa soundfile    # not dependencies: they serve this comparison only
    python benchmarks/reader.py

The usual loader reads a clip's JPEG files (320 x 240, as extracted), resizes, crops and normalises
them with Pillow and torchvision, reads its wav file and makes three librosa spectrograms of it,
which it splits and standardises. Ours reads the same clip from a shard. Both give batches of the
same shapes, on one thread, in turn in one run; medians are compared. Pictures and sound are the
demo's.
"""

import itertools
import os

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))  # read when the libraries are first imported

import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import PIL  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision import transforms  # noqa: E402

from clip4vla.cache.clips import ClipCache  # noqa: E402
from clip4vla.cache.log_mel import resample  # noqa: E402
from clip4vla.cache.manifest import freeze  # noqa: E402
from clip4vla.cache.shards import build_shard  # noqa: E402
from clip4vla.common.device import pick_device, set_threads  # noqa: E402
from clip4vla.common.files import write_parquet  # noqa: E402
from clip4vla.config.data import Cache  # noqa: E402
from clip4vla.config.sections import Inputs  # noqa: E402
from clip4vla.loading.collate import collate  # noqa: E402
from clip4vla.loading.samples import ClipSamples  # noqa: E402
from clip4vla.media.decode import DecodeError, decode_audio, decode_frames  # noqa: E402
from clip4vla.models.common.images import CLIP_STATISTICS  # noqa: E402

DEMO = Path(__file__).parents[1] / "demo" / "clips"
CLIPS, BATCH, ROUNDS = 16, 8, 5
SECONDS, RATE, FRAMES = 12, 16000, 12
SIZE = (320, 240)  # of the frames as the usual loader finds them
QUALITY = 95  # of its JPEGs: OpenCV's default
VERSION = "reader-v1-000000"


def material(channels):
    """Frames [FRAMES, 240, 320, 3] and sound [channels, n] of every clip, from the demo's."""
    for path in sorted(DEMO.glob("*.mp4")):
        try:
            sound, rate = decode_audio(path)
        except DecodeError:  # the demo has silent clips too
            continue
        frames = [Image.fromarray(frame).resize(SIZE) for frame in decode_frames(path, 2.0)]
        sound = resample(torch.from_numpy(sound), rate, RATE).numpy()[[0, -1][:channels]]
        sound = np.tile(sound, (1, -(-SECONDS * RATE // sound.shape[1])))[:, : SECONDS * RATE]
        yield path.stem, [np.asarray(frames[i % len(frames)]) for i in range(FRAMES)], sound


def write_files(folder, clips, soundfile):
    """A folder of JPEGs and a wav file per clip."""
    for name, frames, sound in clips:
        (folder / name).mkdir(parents=True)
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / name / f"{number}.jpg", quality=QUALITY)
        soundfile.write(folder / f"{name}.wav", sound.T, RATE, subtype="PCM_16")


def write_shard(folder, clips, soundfile):
    """The same clips as a frozen dataset version."""
    media, given = folder / "media", {name: frames for name, frames, _ in clips}
    write_files(media, clips, soundfile)
    shared = {"shard": 0, "start": 0.0, "end": float(SECONDS), "duration": float(SECONDS)}
    shared |= {"fetch": "ok", "video": "ok", "audio": "ok", "sound": "unknown"}
    ledger = pd.DataFrame(
        [
            {"clip_id": name, "path": str(media / f"{name}.wav"), "tool": "", "decoder": ""}
            | shared
            for name in given
        ]
    )
    index = folder / "shards" / "0.parquet"
    wav = lambda path: (soundfile.read(path, dtype="float32", always_2d=True)[0].T, RATE)  # noqa: E731
    jpegs = lambda path, fps, seconds: iter(given[Path(path).stem])  # noqa: E731
    table = build_shard(ledger, Cache(), index.with_suffix(".tar"), wav, jpegs)
    write_parquet(index, table)
    splits = [{"split": "s", "clip_id": name, "captions": ["a"], "labels": []} for name in given]
    freeze(ledger, pd.DataFrame(splits), [index], VERSION, Cache(), folder)
    return folder / "manifest.json", index.with_suffix(".tar").stat().st_size


class UsualLoader(torch.utils.data.Dataset):
    """JPEG files and wav files, as such code reads them."""

    def __init__(self, folder, names, librosa, soundfile):
        self.folder, self.names = folder, names
        self.librosa, self.soundfile = librosa, soundfile
        self.transform = transforms.Compose(
            [
                transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(*CLIP_STATISTICS),
            ]
        )

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        name = self.names[index]
        paths = [self.folder / name / f"{number}.jpg" for number in range(FRAMES)]
        frames = [self.transform(Image.open(path).convert("RGB")) for path in paths]
        sound, _ = self.soundfile.read(self.folder / f"{name}.wav", dtype="float32", always_2d=True)
        left, right = sound[:, 0], sound[:, -1]  # mono is taken twice
        log_mel = np.stack([self._log_mel(wave) for wave in (left, (left + right) / 2, right)])
        pad = -log_mel.shape[1] % 224
        images = np.pad(log_mel, ((0, 0), (0, pad), (0, 0))).reshape(3, -1, 224, 224)
        images = images.transpose(1, 0, 2, 3)
        mean, std = (f(images, axis=(2, 3), keepdims=True) for f in (np.mean, np.std))
        return torch.stack(frames), torch.from_numpy((images - mean) / (std + 1e-10))

    def _log_mel(self, wave):
        mel = self.librosa.feature.melspectrogram(
            y=wave, sr=RATE, n_fft=512, hop_length=128, n_mels=224, fmin=0.0, fmax=8000.0
        )
        return self.librosa.power_to_db(mel).T


def seconds_per_sample(samples, collate_fn):
    begin = time.process_time()
    for start in range(0, CLIPS, BATCH):
        collate_fn([samples[i] for i in range(start, start + BATCH)])
    return (time.process_time() - begin) / CLIPS


def main():
    try:
        import librosa
        import soundfile
    except ImportError:
        print("needed: python -m pip install librosa soundfile", file=sys.stderr)
        return 1
    set_threads(1)
    pick_device()  # memory is kept by the process, as in a run
    usual_collate = torch.utils.data.default_collate
    print(f"{CLIPS} clips of {SECONDS} s, {FRAMES} frames; one thread, median of {ROUNDS} rounds")
    print(
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow "
        f"{PIL.__version__}, librosa {librosa.__version__}, soundfile {soundfile.__version__}"
    )
    for kind, channels in (("stereo", 2), ("mono", 1)):
        with tempfile.TemporaryDirectory() as home:
            clips = list(itertools.islice(material(channels), CLIPS))
            manifest, tar_bytes = write_shard(Path(home), clips, soundfile)
            names = [name for name, _, _ in clips]
            items = [(name, "a caption of the usual length for a clip", "") for name in names]
            ours = ClipSamples(ClipCache(manifest), items, Inputs(max_frames=FRAMES), 0.5)
            usual = UsualLoader(Path(home) / "media", names, librosa, soundfile)
            difference = (collate([ours[0]])["audio"][0] - usual[0][1]).abs().max()
            times = [
                (seconds_per_sample(usual, usual_collate), seconds_per_sample(ours, collate))
                for _ in range(ROUNDS + 1)
            ][1:]  # the first one warms up
            files = sum(path.stat().st_size for path in usual.folder.rglob("*") if path.is_file())
        slow, fast = (statistics.median(side) for side in zip(*times, strict=True))
        ratios = sorted(a / b for a, b in times)
        print(
            f"{kind:6}  usual {1e3 * slow:6.1f} ms, {1 / slow:5.1f} samples/s  shards "
            f"{1e3 * fast:5.1f} ms, {1 / fast:5.1f} samples/s  {slow / fast:4.1f} times as fast "
            f"({ratios[0]:.1f} to {ratios[-1]:.1f}); files {files / CLIPS / 1e6:.2f} MB, shard "
            f"{tar_bytes / CLIPS / 1e6:.2f} MB a clip; sound differs by {difference:.3f} at most"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast samples come out of the shards, against the usual loader of this field.

    python -m pip install librosa soundfile    # not dependencies: they serve this comparison only
    python benchmarks/reader.py

The usual loader reads a clip's JPEG files (320 x 240, as extracted), resizes, crops and normalises
them with Pillow and torchvision, reads its wav file and makes three librosa spectrograms of it,
which it splits and standardises. Ours reads the same clip from a shard. Both give batches of the
same shapes, ours with frames as bytes, which the model normalises on its device. Pictures and sound
are the demo's.
"""

import itertools
import tempfile
from pathlib import Path

import bench
import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from usual import RATE, frozen, spectrograms

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.resample import resample
from clip4vla.common.device import pick_device
from clip4vla.config.sections import Inputs
from clip4vla.loading.collate import collate
from clip4vla.loading.samples import ClipSamples
from clip4vla.media.decode import DecodeError, decode_audio, decode_frames
from clip4vla.models.common.images import CLIP_STATISTICS

BATCH = 8
SECONDS, FRAMES = 12, 12
SIZE = (320, 240)  # of the frames as the usual loader finds them
QUALITY = 95  # of its JPEGs: OpenCV's default
VERSION = "reader-v1-000000"


def material(channels):
    """Frames [FRAMES, 240, 320, 3] and sound [channels, n] of every clip, from the demo's."""
    for path in sorted(bench.DEMO.glob("*.mp4")):
        try:
            sound, rate = decode_audio(path)
        except DecodeError:  # the demo has silent clips too
            continue
        frames = [Image.fromarray(frame).resize(SIZE) for frame in decode_frames(path, 2.0)]
        sound = resample(torch.from_numpy(sound), rate, RATE).numpy()[[0, -1][:channels]]
        sound = np.tile(sound, (1, -(-SECONDS * RATE // sound.shape[1])))[:, : SECONDS * RATE]
        yield path.stem, [np.asarray(frames[i % len(frames)]) for i in range(FRAMES)], sound


def write_files(folder, clips):
    """A folder of JPEGs and a wav file per clip."""
    import soundfile

    for name, frames, sound in clips:
        (folder / name).mkdir(parents=True)
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / name / f"{number}.jpg", quality=QUALITY)
        soundfile.write(folder / f"{name}.wav", sound.T, RATE, subtype="PCM_16")


def read_wav(path):
    """Samples [n, channels] of a wav file."""
    import soundfile

    return soundfile.read(path, dtype="float32", always_2d=True)[0]


class UsualLoader(torch.utils.data.Dataset):
    """JPEG files and wav files, as such code reads them."""

    def __init__(self, folder, names):
        self.folder, self.names = folder, names
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
        sound = read_wav(self.folder / f"{name}.wav")
        log_mel = spectrograms(sound[:, 0], sound[:, -1])  # mono is taken twice
        pad = -log_mel.shape[1] % 224
        images = np.pad(log_mel, ((0, 0), (0, pad), (0, 0))).reshape(3, -1, 224, 224)
        images = images.transpose(1, 0, 2, 3)
        mean, std = (f(images, axis=(2, 3), keepdims=True) for f in (np.mean, np.std))
        return torch.stack(frames), torch.from_numpy((images - mean) / (std + 1e-10))


def parser():
    made = bench.parser(__doc__, rounds=5)
    made.add_argument("--clips", type=int, default=16)
    return made


def rows(options):
    bench.require("librosa", "soundfile")
    pick_device("cpu")  # memory is kept by the process, as in a run
    for kind, channels in (("stereo", 2), ("mono", 1)):
        with tempfile.TemporaryDirectory() as home:
            yield compared(
                kind, list(itertools.islice(material(channels), options.clips)), home, options
            )


def compared(kind, clips, home, options):
    media = Path(home) / "media"
    write_files(media, clips)
    pictures = {name: frames for name, frames, _ in clips}
    sounds = {name: read_wav(media / f"{name}.wav").T for name in pictures}
    lengths = dict.fromkeys(pictures, float(SECONDS))
    manifest = frozen(Path(home), lengths, sounds.get, pictures.get, VERSION)
    items = [(name, "a caption of the usual length for a clip", "") for name in pictures]
    ours = ClipSamples(ClipCache(manifest), items, Inputs(max_frames=FRAMES), 0.5)
    usual = UsualLoader(media, list(pictures))
    difference = (collate([ours[0]])["audio"][0] - usual[0][1]).abs().max()
    files = sum(path.stat().st_size for path in media.rglob("*") if path.is_file())
    shard = (manifest.parent / "shards" / "0.tar").stat().st_size
    sizes = [f"{size / len(clips) / 1e6:.2f} MB" for size in (shard, files)]
    return bench.compare(
        f"a {kind} sample of {SECONDS} s and {FRAMES} frames",
        lambda: batches(ours, collate),
        lambda: batches(usual, torch.utils.data.default_collate),
        against="JPEG and wav files, librosa, frames as floats",
        options=options,
        per=len(clips),
        note=lambda *_: (
            f"{' against '.join(sizes)} a clip; sound differs by {difference:.3f} at most"
        ),
    )


def batches(samples, collate_samples):
    for start in range(0, len(samples), BATCH):
        last = min(start + BATCH, len(samples))
        collate_samples([samples[index] for index in range(start, last)])


if __name__ == "__main__":
    bench.main(parser(), rows)

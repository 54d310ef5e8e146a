"""How fast samples come out of the shards, against the usual loader of this field.

    python -m pip install librosa soundfile    # not dependencies: they serve this comparison only
    python benchmarks/reader.py

The usual loader reads a clip's JPEG files (320 x 240, as extracted), resizes, crops and normalises
them with Pillow and torchvision, reads its wav file and makes three librosa spectrograms of it,
which it splits and standardises. Ours reads the same clip from a shard. Both give batches of equal
tensors: tokens, sound, and frames, either as normalised floats or as bytes, which is what training
moves to its device. Ours has one channel for mono, which stands for the usual loader's three equal
ones. Pictures and sound are the demo's, which is mono: the second channel of the stereo clips is a
later, quieter copy of the first.
"""

import collections
import itertools
import tempfile
from pathlib import Path

import bench
import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from usual import MOST_FRAMES, RATE, frozen, spectrograms

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.resample import resample
from clip4vla.common.device import pick_device
from clip4vla.config.sections import Inputs
from clip4vla.loading.collate import collate
from clip4vla.loading.samples import ClipSamples
from clip4vla.loading.tokenizer import tokenize
from clip4vla.media.decode import DecodeError, decode_audio, decode_frames
from clip4vla.models.common.images import CLIP_STATISTICS, pixels

BATCH = 8
SECONDS, FRAMES = 12, 12
SIZE = (320, 240)  # of the frames as the usual loader finds them
QUALITY = 95  # of its JPEGs: OpenCV's default
VERSION = "reader-v1-000000"
CAPTION = "a caption of the usual length for a clip"
NORMALISED, BYTES = "normalised floats", "bytes"  # the frames of both sides
MOST_SOUND = 0.1  # half precision rounds the cache's decibels by 1/32; segments deviate by 1 dB


def material(channels):
    """Frames [FRAMES, 240, 320, 3] and sound [channels, n] of every clip, from the demo's."""
    for path in sorted(bench.DEMO.glob("*.mp4")):
        try:
            sound, rate = decode_audio(path)
        except DecodeError:  # the demo has silent clips too
            continue
        frames = [Image.fromarray(frame).resize(SIZE) for frame in decode_frames(path, 2.0)]
        sound = resample(torch.from_numpy(sound), rate, RATE).numpy()[0]
        sound = np.resize(sound, SECONDS * RATE)  # repeated
        sound = np.stack([sound, 0.7 * np.roll(sound, RATE // 50)])[:channels]
        yield path.stem, [np.asarray(frames[i % len(frames)]) for i in range(FRAMES)], sound


def write_files(folder, clips):
    """A folder of JPEGs and a wav file per clip."""
    import soundfile

    for name, frames, sound in clips:
        (folder / name).mkdir(parents=True)
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / name / f"{number}.jpg", quality=QUALITY)
        soundfile.write(folder / f"{name}.wav", sound.T, RATE, subtype="PCM_16")


def read_jpegs(folder):
    """Pictures of the JPEGs of a clip."""
    return [Image.open(folder / f"{number}.jpg").convert("RGB") for number in range(FRAMES)]


def read_wav(path):
    """Samples [n, channels] of a wav file."""
    import soundfile

    return soundfile.read(path, dtype="float32", always_2d=True)[0]


class UsualLoader(torch.utils.data.Dataset):
    """JPEG files and wav files, as such code reads them."""

    def __init__(self, folder, names, kind):
        self.folder, self.names = folder, names
        steps = [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
        ]
        if kind == NORMALISED:
            steps += [transforms.ToTensor(), transforms.Normalize(*CLIP_STATISTICS)]
        else:
            steps += [transforms.PILToTensor()]
        self.transform = transforms.Compose(steps)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        name = self.names[index]
        frames = [self.transform(picture) for picture in read_jpegs(self.folder / name)]
        sound = read_wav(self.folder / f"{name}.wav")
        log_mel = spectrograms(sound[:, 0], sound[:, -1])  # mono is taken twice
        pad = -log_mel.shape[1] % 224
        images = np.pad(log_mel, ((0, 0), (0, pad), (0, 0))).reshape(3, -1, 224, 224)
        images = images.transpose(1, 0, 2, 3)
        mean, std = (f(images, axis=(2, 3), keepdims=True) for f in (np.mean, np.std))
        return {
            "frames": torch.stack(frames),
            "audio": torch.from_numpy((images - mean) / (std + 1e-10)),
            "tokens": tokenize([CAPTION], Inputs().caption_tokens)[0],
        }


def parser():
    made = bench.parser(__doc__, rounds=5)
    made.add_argument("--clips", type=int, default=16)
    return made


def rows(options):
    bench.require("librosa", "soundfile")
    pick_device("cpu")  # memory is kept by the process, as in a run
    for sound, channels in (("stereo", 2), ("mono", 1)):
        clips = list(itertools.islice(material(channels), options.clips))
        with tempfile.TemporaryDirectory() as home:
            media, samples = Path(home) / "media", cached(Path(home), clips)
            files = sum(path.stat().st_size for path in media.rglob("*") if path.is_file())
            shard = (Path(home) / "shards" / "0.tar").stat().st_size
            sizes = [f"{size / len(clips) / 1e6:.2f} MB" for size in (shard, files)]
            for kind in (NORMALISED, BYTES):
                usual = UsualLoader(media, [name for name, _, _ in clips], kind)
                yield compared(f"a {sound} sample", kind, samples, usual, sizes, options)


def cached(home, clips):
    """Write the clips as files, and samples of them from a shard of the same files."""
    media = home / "media"
    write_files(media, clips)
    manifest = frozen(
        home,
        {name: float(SECONDS) for name, _, _ in clips},
        lambda name: read_wav(media / f"{name}.wav").T,
        lambda name: map(np.asarray, read_jpegs(media / name)),
        VERSION,
    )
    items = [(name, CAPTION, "") for name, _, _ in clips]
    return ClipSamples(ClipCache(manifest), items, Inputs(max_frames=FRAMES), 0.5)


def compared(sample, kind, samples, usual, sizes, options):
    def normalised(samples):
        batch = collate(samples)
        return batch | {"frames": pixels(batch["frames"])}  # as the model does

    ours = lambda: batches(samples, normalised if kind == NORMALISED else collate)  # noqa: E731
    theirs = lambda: batches(usual, torch.utils.data.default_collate)  # noqa: E731

    def note(*_):
        worst = map(differences, ours(), theirs())
        sound, frames, pixel = np.max(list(worst), axis=0)
        return (
            f"{' against '.join(sizes)} a clip; "
            f"{bench.agreed('sound differs by at most', sound, MOST_SOUND)}; "
            f"{bench.agreed('frames by a root mean square of', frames, MOST_FRAMES)} of 255, "
            f"a pixel by {pixel:.0f} at most"
        )

    return bench.compare(
        f"{sample} of {SECONDS} s and {FRAMES} frames as {kind} on both sides",
        lambda: collections.deque(ours(), maxlen=0),
        lambda: collections.deque(theirs(), maxlen=0),
        against="JPEG and wav files, three librosa spectrograms",
        options=options,
        per=len(samples),
        note=note,
    )


def batches(samples, collate_samples):
    for start in range(0, len(samples), BATCH):
        last = min(start + BATCH, len(samples))
        yield collate_samples([samples[index] for index in range(start, last)])


def differences(ours, usual):
    """Greatest differences of a batch: of sound, of a clip's frames, of a pixel (of 255)."""
    channels = [batch["audio"].expand_as(usual["audio"]) for batch in (ours, usual)]
    kinds = sum(ours[name].dtype is not usual[name].dtype for name in usual)
    bench.agreed("kinds of numbers that differ:", kinds, 0)
    bench.agreed("tokens that differ:", (ours["tokens"] != usual["tokens"]).sum().item(), 0)
    pictures = levels(ours["frames"]) - levels(usual["frames"])
    clips = pictures.square().mean(dim=(1, 2, 3, 4)).sqrt()
    return [x.abs().max().item() for x in (channels[0] - channels[1], clips, pictures)]


def levels(frames):
    """Pixels of 0 to 255 as floats."""
    if frames.dtype is torch.uint8:
        return frames.float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in CLIP_STATISTICS)
    return 255 * (frames * std + mean)


if __name__ == "__main__":
    bench.main(parser(), rows)

"""What checking clips against their sha256 costs the reader, beside reading them unchecked.

    python benchmarks/read_checks.py

Clips as large as those of MSR-VTT in stereo (15 s: 15 frames, 1,875 steps of sound), of noise, so
that JPEGs are larger than real ones. The same samples are made without a check, with a sampled
share and with all of them checked. Where few are checked, the clips are read several times a round.
"""

import math
import tempfile
from pathlib import Path
from unittest import mock

import bench
import numpy as np
import torch
from usual import RATE, frozen

from clip4vla.cache import clips as checks
from clip4vla.cache.clips import SAMPLED, ClipCache
from clip4vla.cache.members import sha256_of_members
from clip4vla.config.sections import Inputs
from clip4vla.loading.collate import collate
from clip4vla.loading.samples import ClipSamples

BATCH, SECONDS, SIZE = 8, 15, (240, 320)
NEVER = 1 << 62  # one clip in so many
DEVIATIONS = 6  # standard ones that a drawn number of checks may be from its mean: 1 in 10^8


def pictures(name):
    """Smooth pictures with a little noise: they compress about as films do."""
    rng = np.random.default_rng(int(name))
    lines, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for number in range(SECONDS):
        base = np.stack([lines, columns, lines + columns + 9 * number], axis=2)
        yield ((base + rng.integers(0, 24, size=(*SIZE, 3))) % 256).astype(np.uint8)


def sound(name):
    """Stereo noise."""
    rng = np.random.default_rng(int(name))
    return (0.1 * rng.standard_normal((2, SECONDS * RATE))).astype(np.float32)


class Reading:
    """A side: a pass over the clips, some times; it counts the checks of every call."""

    def __init__(self, manifest, names, every, times):
        items = [(name, "a caption", "") for name in names]
        self.samples = ClipSamples(ClipCache(manifest, every), items, Inputs(max_frames=12), 0.5)
        self.times, self.checked = times, []

    def digest(self, members):
        """Count a check and do it."""
        self.checked[-1] += 1
        return sha256_of_members(members)

    def __call__(self):
        """Return the last batch."""
        self.checked.append(0)
        with mock.patch.object(checks, "sha256_of_members", self.digest):
            for _ in range(self.times):
                for start in range(0, len(self.samples), BATCH):
                    last = min(start + BATCH, len(self.samples))
                    batch = collate([self.samples[index] for index in range(start, last)])
        return batch


def parser():
    made = bench.parser(__doc__, rounds=5)
    made.add_argument("--clips", type=int, default=16)
    made.add_argument("--reads", type=int, default=96, help="a round, where few are checked")
    return made


def rows(options):
    names = [str(number) for number in range(options.clips)]
    with tempfile.TemporaryDirectory() as home:
        lengths = dict.fromkeys(names, float(SECONDS))
        manifest = frozen(Path(home), lengths, sound, pictures, "checks-v1-000000")
        size = (manifest.parent / "shards" / "0.tar").stat().st_size / options.clips / 1e6
        several = max(1, round(options.reads / options.clips))
        for share, every, times in ((f"one in {SAMPLED}", SAMPLED, several), ("all", 1, 1)):
            ours, plain = (Reading(manifest, names, of, times) for of in (every, NEVER))
            yield bench.compare(
                f"a sample of {size:.2f} MB, {share} of the reads checked",
                ours,
                plain,
                against="unchecked",
                options=options,
                per=times * options.clips,
                note=checks_of(ours, plain, every),
            )


def checks_of(ours, plain, every):
    """Make a note of how many reads were checked in the timed rounds; samples must be equal."""

    def note(last, last_plain):
        checked = ours.checked[1:]  # after warming up
        reads = len(checked) * ours.times * len(ours.samples)
        spread = DEVIATIONS * math.sqrt(reads * (every - 1)) / every
        bench.agreed("checked reads beyond their share", abs(sum(checked) - reads / every), spread)
        bench.agreed("checked reads of the unchecked side", sum(plain.checked), 0)
        values = [
            (value, last_plain.result[name])
            for name, value in last.result.items()
            if isinstance(value, torch.Tensor)
        ]
        different = sum(not torch.equal(one, other) for one, other in values)
        return (
            f"{sum(checked)} of {reads} reads checked, {min(checked)} to {max(checked)} a round; "
            f"{bench.agreed('tensors that differ:', different, 0)}"
        )

    return note


if __name__ == "__main__":
    bench.main(parser(), rows)

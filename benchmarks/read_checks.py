"""What checking clips against their sha256 costs the reader, beside reading them unchecked.

    python benchmarks/read_checks.py

Clips as large as those of MSR-VTT in stereo (15 s: 15 frames, 1,875 steps of sound), of noise, so
that JPEGs are larger than real ones. The same samples are made without a check, with a sampled
share and with all of them checked.
"""

import tempfile
from pathlib import Path

import bench
import numpy as np
from usual import RATE, frozen

from clip4vla.cache.clips import SAMPLED, ClipCache
from clip4vla.config.sections import Inputs
from clip4vla.loading.collate import collate
from clip4vla.loading.samples import ClipSamples

BATCH, SECONDS, SIZE = 8, 15, (240, 320)
NEVER = 1 << 62  # one clip in so many


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


def parser():
    made = bench.parser(__doc__, rounds=15)
    made.add_argument("--clips", type=int, default=32)
    return made


def rows(options):
    names = [str(number) for number in range(options.clips)]
    with tempfile.TemporaryDirectory() as home:
        lengths = dict.fromkeys(names, float(SECONDS))
        manifest = frozen(Path(home), lengths, sound, pictures, "checks-v1-000000")
        size = (manifest.parent / "shards" / "0.tar").stat().st_size / options.clips / 1e6

        def reading(every):
            items = [(name, "a caption", "") for name in names]
            samples = ClipSamples(ClipCache(manifest, every), items, Inputs(max_frames=12), 0.5)

            def passed():
                for start in range(0, len(names), BATCH):
                    last = min(start + BATCH, len(names))
                    collate([samples[index] for index in range(start, last)])

            return passed

        for checked, every in ((f"one in {SAMPLED}", SAMPLED), ("all", 1)):
            yield bench.compare(
                f"a sample of {size:.2f} MB, {checked} of the clips checked",
                reading(every),
                reading(NEVER),
                against="unchecked",
                options=options,
                per=options.clips,
            )


if __name__ == "__main__":
    bench.main(parser(), rows)

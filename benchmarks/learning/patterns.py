"""Pictures of patterns: lines, bars, waves and the like; seeded numpy, no files.

A photograph's texture is a pattern as often as a thing, and a spectrogram is nothing else:
overtones are lines, beats bars, a siren waves. A CLIP that has seen some starts an audio tower
from more than one that knows glyphs alone.
"""

from dataclasses import dataclass

import numpy as np

from learning.pictures import SIZE

_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
PERIODS = {"narrow": (16, 26), "wide": (36, 60)}  # pixels
BANDS = {"top": 0.2, "middle": 0.5, "bottom": 0.8}  # where the band of the pattern is, of SIZE


def _lines(period, rng):
    return np.cos(2 * np.pi * _ROWS / period)


def _bars(period, rng):
    return np.cos(2 * np.pi * _COLUMNS / period)


def _slopes(period, rng):
    return np.cos(2 * np.pi * (_ROWS + rng.choice([-1, 1]) * _COLUMNS) / (1.4 * period))


def _waves(period, rng):
    bend = period * np.sin(2 * np.pi * _COLUMNS / rng.uniform(60, 110) + rng.uniform(0, 6.28))
    return np.cos(2 * np.pi * (_ROWS + bend) / (1.5 * period))


def _dots(period, rng):
    return np.cos(2 * np.pi * _ROWS / period) * np.cos(2 * np.pi * _COLUMNS / period)


def _grain(period, rng):
    cells = int(2 * SIZE / period)
    drawn = rng.uniform(-1, 1, (cells, cells))
    at = (np.arange(SIZE) * cells) // SIZE
    return drawn[at][:, at]


KINDS = {
    "lines": _lines,
    "bars": _bars,
    "slopes": _slopes,
    "waves": _waves,
    "dots": _dots,
    "grain": _grain,
}


@dataclass(frozen=True)
class Pattern:
    """What a pattern's caption tells of it: kind, period, and where its band is."""

    kind: str
    period: str
    band: str

    @property
    def caption(self) -> str:
        """Such as "narrow waves at the top"."""
        return f"{self.period} {self.kind} at the {self.band}"


def some_pattern(rng: np.random.Generator) -> Pattern:
    """Any of the 36."""
    return Pattern(*(str(rng.choice(list(names))) for names in (KINDS, PERIODS, BANDS)))


def draw_pattern(pattern: Pattern, rng: np.random.Generator) -> np.ndarray:
    """uint8 RGB [224, 224, 3]: the pattern in a band on a plain ground; light, contrast drawn."""
    period = rng.uniform(*PERIODS[pattern.period])
    middle = SIZE * (BANDS[pattern.band] + rng.uniform(-0.08, 0.08))
    band = np.exp(-(((_ROWS - middle) / rng.uniform(35, 50)) ** 2))
    wave = KINDS[pattern.kind](period, rng) * band
    light = rng.uniform(60, 150) + rng.uniform(50, 90) * wave + rng.normal(0, 8, wave.shape)
    tint = rng.uniform(0.9, 1.1, 3)
    return (light[..., None] * tint).clip(0, 255).astype(np.uint8)

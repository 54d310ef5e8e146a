"""Pictures of things: a glyph for each, in a colour, on a ground; seeded numpy, no files."""

import numpy as np

SIZE = 224  # pixels, as the cache keeps them: nothing is resized

COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 225),
    "yellow": (235, 215, 50),
}
PLACES = {
    "grass": (70, 110, 60),
    "sand": (170, 150, 105),
    "water": (60, 115, 140),
    "stone": (100, 100, 105),
}


def _star(x, y, radius):
    return radius < 0.55 + 0.4 * np.cos(5 * np.arctan2(x, y))


GLYPHS = {  # thing -> where its glyph is, of x, y (about -1 to 1, y downwards) and the radius
    "bell": lambda x, y, r: (np.abs(y) < 0.9) & (np.abs(x) < 0.5 + 0.5 * y),
    "drum": lambda x, y, r: r < 0.9,
    "bird": lambda x, y, r: (r < 1.0) & (np.hypot(x, y + 0.55) > 0.9),
    "kettle": lambda x, y, r: (r < 1.0) & (r > 0.55),
    "horn": lambda x, y, r: (np.minimum(np.abs(x), np.abs(y)) < 0.27) & (r < 1.0),
    "whistle": lambda x, y, r: np.abs(x) + np.abs(y) < 1.0,
    "siren": lambda x, y, r: _star(x, y, r),
    "door": lambda x, y, r: (np.abs(x) < 0.4) & (np.abs(y) < 1.0),
}
THINGS = tuple(GLYPHS)
_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
GRAIN = 8  # pixels of one grain of the ground


def draw(things: list[tuple[str, str]], place: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 RGB [224, 224, 3]: (thing, colour) pairs, one or two, side by side on a ground.

    Where each stands, its size, its tilt, the light and the grain of the ground are drawn.
    """
    light = rng.uniform(0.8, 1.1)
    grain = rng.normal(0, 12, (SIZE // GRAIN, SIZE // GRAIN, 1))
    ground = _bytes(light * (np.array(PLACES[place]) + grain))
    image = ground.repeat(GRAIN, 0).repeat(GRAIN, 1)
    for side, (thing, colour) in zip(rng.permutation(len(things)), things, strict=True):
        alone = len(things) == 1
        size = rng.uniform(45, 70) if alone else rng.uniform(38, 50)
        left = 112 + rng.uniform(-1, 1) * (100 - size) if alone else 60 + 104 * side
        top = 112 + rng.uniform(-1, 1) * (100 - size)
        mask = _glyph(thing, left, top, size, rng.uniform(-0.25, 0.25))
        image[mask] = _bytes(light * (np.array(COLOURS[colour]) + rng.normal(0, 8, 3)))
    return image


def _glyph(thing: str, left: float, top: float, size: float, tilt: float) -> np.ndarray:
    """bool [224, 224]: where a thing is whose middle, half width and tilt are these."""
    mask = np.zeros((SIZE, SIZE), bool)
    near = tuple(slice(max(int(at - 1.5 * size), 0), int(at + 1.5 * size)) for at in (top, left))
    across, down = (_COLUMNS[near] - left) / size, (_ROWS[near] - top) / size
    x = across * np.cos(tilt) + down * np.sin(tilt)
    y = down * np.cos(tilt) - across * np.sin(tilt)
    mask[near] = GLYPHS[thing](x, y, np.hypot(x, y))
    return mask


def _bytes(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).astype(np.uint8)

"""Sounds of things and words that name them: additive, noise and FM synthesis, seeded numpy.

Every event and every word sounds different each time (pitch, tempo, level, place in the clip,
voice), and a clip mixes both kinds over noise.
"""

from collections.abc import Callable

import numpy as np

RATE = 16000  # Hz
SECONDS = 1.6  # of a clip: one segment of the audio tower
SAMPLES = int(RATE * SECONDS)

VOWELS = {  # first three formants, Hz
    "a": (800, 1250, 2600),
    "e": (480, 2000, 2700),
    "i": (280, 2450, 3200),
    "o": (480, 850, 2500),
    "u": (310, 700, 2300),
}
WORDS = {  # thing -> its syllables in the world's tongue: how it is spoken, not how it is spelled
    "bell": ("sa", "mi"),
    "drum": ("to", "to"),
    "bird": ("ti", "si"),
    "kettle": ("se", "so"),
    "horn": ("mo", "mu"),
    "whistle": ("shu", "ti"),
    "siren": ("ra", "ro"),
    "door": ("ko", "me"),
}
Synthesis = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _noise(n: int, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """Noise [n] of a band, in Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    spectrum[(frequency < low) | (frequency > high)] = 0
    return np.fft.irfft(spectrum, n)


def _overtones(turn: np.ndarray, levels: list[float]) -> np.ndarray:
    """Sum of levels[k] * sin((k + 1) * turn), by Horner's rule: one exponential for all of them."""
    z, total = np.exp(1j * turn), np.zeros(len(turn), complex)
    for level in reversed(levels):
        total = (total + level) * z
    return total.imag


def _harmonics(t: np.ndarray, pitch: float, count: int, power: float) -> np.ndarray:
    """Harmonics of a pitch (Hz) with levels k ** -power."""
    return _overtones(2 * np.pi * pitch * t, [k**-power for k in range(1, count + 1)])


def _beats(t: np.ndarray, per_second: float, decay: float) -> np.ndarray:
    """An envelope that begins anew so many times a second, and falls by `decay` a second."""
    return np.exp(-decay * (t % (1 / per_second)))


def _bell(t, rng):
    pitch = rng.uniform(450, 800)
    partials = ((1, 1), (2.76, 0.7), (5.4, 0.5), (8.9, 0.3))
    tone = sum(level * np.sin(2 * np.pi * ratio * pitch * t) for ratio, level in partials)
    return tone * _beats(t, rng.uniform(1.2, 3), 5)


def _drum(t, rng):
    phase = t % (1 / (rate := rng.uniform(3, 6)))
    tone = np.sin(2 * np.pi * rng.uniform(60, 110) * phase * (1 + np.exp(-20 * phase)))
    return (tone + 0.1 * rng.standard_normal(len(t))) * _beats(t, rate, 18)


def _bird(t, rng):
    rate = rng.uniform(4, 8)
    phase = t % (1 / rate)
    low, rise = rng.uniform(2200, 3000), rng.uniform(6000, 12000)
    return np.sin(2 * np.pi * (low + rise * phase) * phase) * np.sin(np.pi * phase * rate) ** 2


def _kettle(t, rng):
    return _noise(len(t), rng.uniform(4500, 5000), 7500, rng)


def _horn(t, rng):
    pitch = rng.uniform(230, 380)
    return _harmonics(t, pitch, 8, 0.4) + _harmonics(t, 1.26 * pitch, 8, 0.4)


def _whistle(t, rng):
    pitch, vibrato = rng.uniform(1300, 2100), rng.uniform(5, 8)
    return np.sin(2 * np.pi * pitch * t + 6 * np.sin(2 * np.pi * vibrato * t))


def _siren(t, rng):
    rate, middle = rng.uniform(1, 2), rng.uniform(800, 1100)
    turn = 2 * np.pi * rate * t + rng.uniform(0, 6.28)
    return np.sin(2 * np.pi * middle * t + 350 / rate * np.sin(turn))


def _door(t, rng):
    pulse = _beats(t, rng.uniform(25, 45), 150)
    return _noise(len(t), 200, 1500, rng) * pulse


EVENTS: dict[str, Synthesis] = {
    "bell": _bell,
    "drum": _drum,
    "bird": _bird,
    "kettle": _kettle,
    "horn": _horn,
    "whistle": _whistle,
    "siren": _siren,
    "door": _door,
}


def event(thing: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """The sound of a thing, [seconds * RATE], faded in and out, of power 1."""
    t = np.arange(int(seconds * RATE)) / RATE
    return _faded(EVENTS[thing](t, rng), 0.03)


def word(thing: str, pitch: float, stretch: float, rng: np.random.Generator) -> np.ndarray:
    """The spoken name of a thing by a voice of this pitch (Hz); `stretch` makes it slower."""
    return np.concatenate([_syllable(s, pitch, stretch, rng) for s in WORDS[thing]])


def _syllable(name: str, pitch: float, stretch: float, rng: np.random.Generator) -> np.ndarray:
    """A consonant, then a vowel: harmonics of the voice under the vowel's formants."""
    n = int(0.16 * stretch * RATE)
    t = np.arange(n) / RATE
    bend = pitch * (1 + rng.uniform(-0.1, 0.1) * t / t[-1])
    turn = 2 * np.pi * np.cumsum(bend) / RATE
    levels = [_vowel(name[-1], k * pitch) for k in range(1, int(3600 / pitch))]
    voice = _overtones(turn, levels)
    return np.concatenate([_consonant(name[:-1], pitch, stretch, rng), _faded(voice, 0.02)])


def _vowel(name: str, frequency: float) -> float:
    """Level of a harmonic at this frequency (Hz): the sum of the formants' resonances."""
    near = ((frequency - formant) / 80 for formant in VOWELS[name])
    return sum(level / (1 + d * d) for level, d in zip((1, 0.7, 0.3), near, strict=True))


def _consonant(name: str, pitch: float, stretch: float, rng: np.random.Generator) -> np.ndarray:
    n = int(0.07 * stretch * RATE)
    match name:
        case "s":
            return 0.7 * _faded(_noise(n, 4500, 7500, rng), 0.01)
        case "sh":
            return 0.7 * _faded(_noise(n, 2000, 4000, rng), 0.01)
        case "t" | "k":
            low = 3000 if name == "t" else 1000
            burst = _noise(n, low, low + 3000, rng)
            return np.where(np.arange(n) < 0.6 * n, 0, 1.5) * _faded(burst, 0.001)
        case "m" | "r":
            t = np.arange(n) / RATE
            high = 250 if name == "m" else 1300
            return 0.6 * _faded(_harmonics(t, pitch, int(high / pitch) + 1, 0), 0.01)
    raise ValueError(f"no consonant {name!r}")


def _faded(x: np.ndarray, seconds: float) -> np.ndarray:
    """x with soft ends and power 1."""
    n = min(int(seconds * RATE), len(x) // 2)
    ramp = np.linspace(0, 1, n)
    x = x.copy()
    x[:n] *= ramp
    x[len(x) - n :] *= ramp[::-1]
    return x / (np.sqrt(np.mean(x**2)) + 1e-9)


def mix(
    words: list[str], events: list[str], louder: str | None, rng: np.random.Generator
) -> np.ndarray:
    """float32 [n] of a whole clip: events one after another, words one after another, over noise.

    Events share the clip evenly; words lie anywhere, in order, in one voice. What is `louder`
    (words or events; None: neither) is so by 6 to 14 dB.
    """
    out = np.zeros(SAMPLES)
    for i, thing in enumerate(events):
        seconds = SECONDS / len(events)
        start = int(i * seconds * RATE)
        sound = event(thing, seconds, rng) * _level(-2, 2, rng)
        out[start : start + len(sound)] += sound
    pitch, stretch = rng.uniform(95, 230), rng.uniform(0.85, 1.15)
    spoken = [word(thing, pitch, stretch, rng) for thing in words]
    free = SAMPLES - sum(map(len, spoken))
    gaps = np.diff(np.sort(rng.integers(0, max(free, 0) + 1, len(spoken))), prepend=0)
    between = {"words": (6, 14), "events": (-14, -6), None: (-3, 3)}[louder]
    level, at = _level(*between, rng), 0
    for gap, sound in zip(gaps, spoken, strict=True):
        at += gap
        piece = sound[: SAMPLES - at]
        out[at : at + len(piece)] += level * piece
        at += len(piece)
    out += _level(-30, -20, rng) * rng.standard_normal(SAMPLES)
    return (0.1 * _level(-10, 5, rng) * out).astype(np.float32)


def _level(low: float, high: float, rng: np.random.Generator) -> float:
    """A factor drawn between two levels in dB."""
    return 10 ** (rng.uniform(low, high) / 20)

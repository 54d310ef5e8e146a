"""Convert users' samples to the waveform of the front-end: float32, mono or stereo.

More than two channels become stereo as in ITU-R BS.775 and in libav, so that an array and the file
it came from give the same sound: the centre at -3 dB on both sides, surround channels at -3 dB on
their own, a back centre at -6 dB on both, low-frequency effects left out. Nothing is scaled down or
clipped: a loud mix may go beyond -1..1.
"""

import math

import numpy as np
import torch

from clip4vla.media.decode import LOUDEST

FULL_SCALE = {"uint8": 2**7, "int16": 2**15, "int32": 2**31, "float32": 1, "float64": 1}

SPEAKERS = {  # by number of channels: the order of WAV files and of libav
    3: "left right lfe",
    4: "left right centre back",
    5: "left right centre back_left back_right",
    6: "left right centre lfe back_left back_right",  # 5.1
    7: "left right centre lfe back side_left side_right",  # 6.1
    8: "left right centre lfe back_left back_right side_left side_right",  # 7.1
}
HALF = math.sqrt(0.5)  # of the power: -3 dB
GAINS = {  # into left and right
    "left": (1.0, 0.0),
    "right": (0.0, 1.0),
    "centre": (HALF, HALF),
    "lfe": (0.0, 0.0),
    "back": (0.5, 0.5),
    "back_left": (HALF, 0.0),
    "back_right": (0.0, HALF),
    "side_left": (HALF, 0.0),
    "side_right": (0.0, HALF),
}


def as_waveform(samples: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return float32 [1 or 2, n] in -1..1 of samples [n] or [1 to 8, n]; mono stays mono.

    uint8 (128 is silence), int16 and int32 are divided by full scale, float32 and float64 are used
    unchanged. Channels are in the order of WAV files (`SPEAKERS`). Raises ValueError for another
    type or shape, and for samples that are NaN, infinite or 40 dB and more beyond full scale.
    """
    if isinstance(samples, torch.Tensor):
        name = str(samples.dtype).removeprefix("torch.")
    else:
        samples = np.asarray(samples)
        name = samples.dtype.name
    if name not in FULL_SCALE:
        raise ValueError(f"samples are {', '.join(FULL_SCALE)}, not {name}: convert them")
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or not 1 <= samples.shape[0] <= 8:
        raise ValueError(
            f"a waveform is [n] or [1 to 8, n], not {list(samples.shape)}: channels come first"
        )
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu().numpy()
    with np.errstate(over="ignore"):  # a float64 too large for float32 is refused below
        waveform = torch.from_numpy(np.require(samples, np.float32, ["C", "W"]))  # [C, n]
    if name == "uint8":
        waveform -= 128
    if FULL_SCALE[name] != 1:
        waveform /= FULL_SCALE[name]
    _check(waveform)
    if len(waveform) > 2:
        gains = [GAINS[speaker] for speaker in SPEAKERS[len(waveform)].split()]
        waveform = torch.tensor(gains).T @ waveform
    return waveform


def _check(waveform: torch.Tensor) -> None:
    """Raise ValueError for samples that are not a plausible sound."""
    if waveform.numel() == 0:
        return
    low, high = (float(value) for value in waveform.aminmax())  # NaN if any sample is
    if not max(-low, high) <= LOUDEST:
        raise ValueError(
            f"the waveform has samples that are NaN, infinite or beyond {LOUDEST:g} times full "
            "scale: float samples lie in -1..1"
        )

"""How far a text tower tells captions apart: what a frozen one cannot, audio cannot learn."""

from pathlib import Path

import numpy as np

from clip4vla import load
from learning.pictures import THINGS
from learning.world import SOUND_ONLY, Clip, balanced_caption, clips, mixed_caption

DATASETS = ("speech", "sounds", "events")


def told_apart(model: Path) -> str:
    """A table in Markdown: of each dataset's distinct captions of sound, how near they are.

    Below it, how much either makes of a caption of a word and an event. model: a
    model.safetensors of ours.
    """
    embedder = load(model)
    lines = [
        "| captions of | captions | median cosine | cosine to the nearest, mean | dimensions |",
        "| --- " * 5 + "|",
    ]
    for dataset in DATASETS:
        captions = sorted({text for clip in clips(dataset) for text in _of_sound(clip)})
        features = embedder.embed_text(captions)
        values = "{:.2f} | {:.3f} | {:.1f}".format(*nearness(features))
        lines.append(f"| {dataset} | {len(captions)} | {values} |")
    lines += ["", "Shares of the variance of captions of a word and an event:"]
    for dataset, put in (("mixed", mixed_caption), ("balanced", balanced_caption)):
        captions = [put(word, event) for word in THINGS for event in THINGS]
        features = embedder.embed_text(captions).reshape(len(THINGS), len(THINGS), -1)
        word, event = (f"{100 * share:.0f} %" for share in shares(features))
        lines.append(f"{dataset}: {word} the word's, {event} the event's.")
    return "\n".join(lines)


def nearness(features: np.ndarray) -> tuple[float, float, float]:
    """Median cosine, mean cosine to the nearest other, effective dimension of features [N, D].

    features: of length 1. The dimension is that around their mean: (sum of the variances along
    the principal axes)^2 / sum of their squares.
    """
    cosines = features @ features.T
    others = cosines[~np.eye(len(features), dtype=bool)].reshape(len(features), -1)
    variances = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    dimension = variances.sum() ** 2 / (variances**2).sum()
    return float(np.median(others)), float(others.max(1).mean()), float(dimension)


def shares(features: np.ndarray) -> tuple[float, float]:
    """Shares of the variance of features [W, E, D] that the first and the second axis explain."""
    around = features - features.mean((0, 1))
    total = (around**2).mean((0, 1)).sum()
    return tuple(float((around.mean(axis) ** 2).mean(0).sum() / total) for axis in (1, 0))


def _of_sound(clip: Clip) -> list[str]:
    """A clip's captions of its sound: those without the picture, where it has them."""
    without = [text for split, text in clip.captions.items() if split.endswith(SOUND_ONLY)]
    return without or list(clip.captions.values())

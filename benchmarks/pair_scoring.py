"""How fast all text-video pairs are scored (local-to-local) against the padded computation.

    python benchmarks/pair_scoring.py [--texts 32] [--clips 32] [--rounds 5] [--joint clip|bert]
                                      [--device cpu|cuda]

The padded side pairs 8 texts at a time with every clip, each pair with all the positions that a
run's settings keep: 32 words, 12 frames, 16 segments (facts 7.4). Ours skips the padding and shares
what pairs can share (`clip4vla/models/clip4vla/pair_scoring.py`). Joint encoder of ViT-B/32: 4
layers, width 512; random weights and features. One CPU thread, or a GPU; both sides in turn in one
run; medians of wall time.

Lengths are drawn to resemble MSR-VTT: captions have a log-normal number of words, mean 9.3 and
standard deviation 4, 3 at least, 1.1 tokens a word, and the start and end tokens, 32 at most; clips
last 10 to 30 s, most of them short (mean 14.8 s), so they have 12 frames and a segment per 1.792 s,
16 at most.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # read at import

import argparse
import platform
import statistics
import time

import numpy as np
import torch

from clip4vla.models.clip4vla.bert import BertJointEncoder
from clip4vla.models.clip4vla.fusion import Fusion
from clip4vla.models.clip4vla.joint import JointEncoder
from clip4vla.models.clip4vla.pair_scoring import score_pairs
from clip4vla.models.common.encoded import FeatureSequence, each

WIDTH, HEADS, LAYERS, SCALE = 512, 8, 4, 100.0
MAX_WORDS, FRAMES, MAX_SEGMENTS, SEGMENT = 32, 12, 16, 1.792
TARGET = 2.5


def caption_tokens(rng, number):
    """Tokens per caption, with start and end."""
    mean, deviation = 9.3, 4.0
    sigma = np.sqrt(np.log(1 + (deviation / mean) ** 2))
    words = np.exp(rng.normal(np.log(mean) - sigma**2 / 2, sigma, number)).clip(3)
    return np.rint(1.1 * words + 2).clip(max=MAX_WORDS).astype(int)


def clip_segments(rng, number):
    """Audio segments per clip."""
    seconds = 10 + 20 * rng.beta(0.79, 2.5, number)  # mean 10 + 20 * 0.24
    return np.ceil(seconds / SEGMENT).clip(max=MAX_SEGMENTS).astype(int)


def upto(lengths, room):
    return torch.arange(room) < torch.from_numpy(lengths)[:, None]


def timed(function):
    begin = time.perf_counter()
    result = function().cpu()
    return result, time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--joint", choices=["clip", "bert"], default="clip")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    encoder = JointEncoder if options.joint == "clip" else BertJointEncoder
    fusion = Fusion(encoder(WIDTH, HEADS, LAYERS), WIDTH, MAX_WORDS, FRAMES).eval()
    for parameter in fusion.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.03, generator=generator)
    words = caption_tokens(rng, options.texts)
    segments = clip_segments(rng, options.clips)
    text = torch.randn(options.texts, MAX_WORDS, WIDTH, generator=generator)
    vision = torch.randn(options.clips, FRAMES, WIDTH, generator=generator)
    audio = torch.randn(options.clips, MAX_SEGMENTS, WIDTH, generator=generator)
    clips = {
        "vision": FeatureSequence(vision, torch.ones(options.clips, FRAMES, dtype=torch.bool)),
        "audio": FeatureSequence(audio, upto(segments, MAX_SEGMENTS)),
    }
    text, text_mask = text.to(device), upto(words, MAX_WORDS).to(device)
    given = text, text_mask, each(clips, lambda x: x.to(device)), SCALE
    fusion.to(device)
    padded, real = MAX_WORDS + FRAMES + MAX_SEGMENTS, words.mean() + FRAMES + segments.mean()
    print(f"{options.texts} texts x {options.clips} clips; joint encoder {options.joint},")
    print(f"{LAYERS} layers of {WIDTH}; positions per pair: {padded} padded, {real:.1f} real")
    print(f"(tokens {words.mean():.1f}, frames {FRAMES}, segments {segments.mean():.1f});")
    print(f"torch {torch.__version__}, {platform.machine()}, Python {platform.python_version()},")
    where = "one thread" if device.type == "cpu" else torch.cuda.get_device_name()
    print(f"float32, {where}, median of {options.rounds} rounds")
    seconds = {"padded": [], "ours": []}
    with torch.inference_mode():
        if device.type == "cuda":
            timed(lambda: score_pairs(fusion, *given))  # loads the kernels
        for _ in range(options.rounds):
            expected, taken = timed(lambda: fusion.local_to_local(*given))
            seconds["padded"].append(taken)
            scores, taken = timed(lambda: score_pairs(fusion, *given))
            seconds["ours"].append(taken)
    worst = (scores - expected).abs().max().item()
    pairs = options.texts * options.clips
    median = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        rate = pairs / median[name]
        print(f"{name:7} {median[name]:7.2f} s ({min(times):.2f} to {max(times):.2f}), "
              f"{rate:6.0f} pairs/s")  # fmt: skip
    print(f"largest difference {worst:.1e} at similarities of size {expected.std():.0f}")
    ratios = sorted(p / o for p, o in zip(*seconds.values(), strict=True))
    print(f"ratio {median['padded'] / median['ours']:.2f} "
          f"(rounds {ratios[0]:.2f} to {ratios[-1]:.2f}; target {TARGET})")  # fmt: skip


if __name__ == "__main__":
    main()

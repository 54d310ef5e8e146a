"""How fast all text-video pairs are scored (local-to-local) against the padded computation.

    python benchmarks/pair_scoring.py [--texts 32] [--clips 32] [--joint clip|bert]
                                      [--device cpu|cuda]

The padded side pairs 8 texts at a time with every clip, each pair with all the positions that a
run's settings keep: 32 words, 12 frames, 16 segments (facts 7.4). Ours skips the padding and shares
what pairs can share (`clip4vla/models/clip4vla/pair_scoring.py`), in the context of evaluation,
whose large products are oneDNN's on some processors (`encoding.py`). Joint encoder of ViT-B/32: 4
layers, width 512; random weights and features, float32 as in evaluation.

Lengths are drawn to resemble MSR-VTT: captions have a log-normal number of words, mean 9.3 and
standard deviation 4, 3 at least, 1.1 tokens a word, and the start and end tokens, 32 at most; clips
last 10 to 30 s, most of them short (mean 14.8 s), so they have 12 frames and a segment per 1.792 s,
16 at most.
"""

import bench
import numpy as np
import torch

from clip4vla.common.device import in_float32, pick_device
from clip4vla.models.clip4vla.bert import BertJointEncoder
from clip4vla.models.clip4vla.fusion import Fusion
from clip4vla.models.clip4vla.joint import JointEncoder
from clip4vla.models.clip4vla.pair_scoring import score_pairs
from clip4vla.models.common.encoded import FeatureSequence, each

WIDTH, HEADS, LAYERS, SCALE = 512, 8, 4, 100.0
MAX_WORDS, FRAMES, MAX_SEGMENTS, SEGMENT = 32, 12, 16, 1.792


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


def parser():
    made = bench.parser(__doc__, rounds=5, device=True)
    made.add_argument("--texts", type=int, default=32)
    made.add_argument("--clips", type=int, default=32)
    made.add_argument("--joint", choices=["clip", "bert"], default="clip")
    return made


def rows(options):
    device = pick_device(options.device)
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
    clips, fusion = each(clips, lambda x: x.to(device)), fusion.to(device)
    text, text_mask = text.to(device), upto(words, MAX_WORDS).to(device)
    padded, real = MAX_WORDS + FRAMES + MAX_SEGMENTS, words.mean() + FRAMES + segments.mean()

    def difference(ours, baseline):
        worst = ((ours.result - baseline.result).abs().max() / baseline.result.std()).item()
        far = bench.agreed("scores differ, in their deviations, by", worst, 1e-5)
        return f"{padded} positions a pair padded, {real:.1f} real; {far}"

    def scored():
        with in_float32(device):  # as evaluation does
            return score_pairs(fusion, text, text_mask, clips, SCALE).cpu()

    with torch.inference_mode():
        yield bench.compare(
            f"{options.texts} x {options.clips} pairs local to local, {options.joint} encoder",
            scored,
            lambda: fusion.local_to_local(text, text_mask, clips, SCALE).cpu(),
            against="padded blocks",
            options=options,
            target="at least 2.5",
            note=difference,
        )


if __name__ == "__main__":
    bench.main(parser(), rows)

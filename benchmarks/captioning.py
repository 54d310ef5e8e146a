"""How fast captions are decoded with kept keys and values against encoding all at every step.

    python benchmarks/captioning.py [--clips 8 16] [--words 12 20 31] [--rounds 3]
                                    [--device cpu|cuda]

Both sides run the same beam search (beam 5, facts 8.3) of the same captioner of ViT-B/32: text
tower 12 layers of 512, joint encoder 4 layers of 512, 49,411 words; random weights and features, 12
frames and 6 segments a clip. "Every step" passes the words so far of every hypothesis through the
text tower, and these with frames and segments through the joint encoder; both sides apply the head
to the newest word only. The end token is made impossible, so that every caption has all the words
asked for: 12, as MSR-VTT's have on average, 20, and 31, the longest. Both sides in turn in one run.
On the CPU one thread, and medians of CPU time, which is the wall time of an idle machine; on a GPU
half precision, and medians of wall time.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # read at import

import argparse
import dataclasses
import platform
import statistics
import time

import torch

from clip4vla.common.device import autocast, half_type
from clip4vla.models.clip4vla.architecture import EOT, PAD, VOCABULARY, resolve
from clip4vla.models.clip4vla.decoding import Decoding, decode
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.common.encoded import FeatureSequence, each

LAYERS, MAX_WORDS, FRAMES, SEGMENTS = 4, 32, 12, 6
TARGET = 5.0


def build():
    """A captioner whose towers for frames and sound are left out: they run once on both sides."""
    sizes = dataclasses.replace(resolve("ViT-B-32"), vision_layers=1)
    torch.manual_seed(0)
    model = CLIP4VLA(sizes)
    model.add_captioner(LAYERS, MAX_WORDS, FRAMES)
    model.captioner.joint.copy_from(model.text)
    with torch.no_grad():
        model.captioner.head.dense.weight.mul_(20.0)  # hypotheses that differ
        model.captioner.head.bias[[EOT, PAD]] = -1e4
    return model.eval()


def timed(model, clips, cache, words):
    device = clips["vision"].features.device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begin = clock()
    with autocast(device):
        captions = decode(model, clips, Decoding(cache=cache), words)
    return captions, clock() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[8, 16], help="decoded together")
    parser.add_argument("--words", type=int, nargs="+", default=[12, 20, 31])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    model, text = build().to(device), resolve("ViT-B-32")
    print(f"beam 5, {FRAMES} frames, {SEGMENTS} segments; text tower {text.text_layers} layers of")
    print(f"{text.text_width}, joint encoder {LAYERS} layers of 512, {VOCABULARY} words;")
    print(f"torch {torch.__version__}, {platform.machine()}, Python {platform.python_version()},")
    print(f"{half_type(device) or 'float32, one thread'}, median of {options.rounds} rounds")
    for clips in options.clips:
        for words in options.words:
            compare(model, clips, words, options.rounds, device)


def compare(model, clips, words, rounds, device):
    generator = torch.Generator().manual_seed(1)
    vision = torch.randn(clips, FRAMES, 512, generator=generator)
    audio = torch.randn(clips, SEGMENTS, 512, generator=generator)
    masks = [torch.ones(x.shape[:2], dtype=torch.bool) for x in (vision, audio)]
    named = {"vision": FeatureSequence(vision, masks[0]), "audio": FeatureSequence(audio, masks[1])}
    encoded = each(named, lambda x: x.to(device))
    if device.type == "cuda":
        timed(model, encoded, True, words)  # loads the kernels
    seconds = {"every step": [], "cached": []}
    for _ in range(rounds):
        for name, cache in (("every step", False), ("cached", True)):
            captions, taken = timed(model, encoded, cache, words)
            seconds[name].append(taken)
            if not cache:
                expected = captions
    same = sum(a.ids == b.ids for a, b in zip(captions, expected, strict=True))
    assert all(len(caption.ids) == words for caption in captions)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{clips} clips at once, {words} words: {median['every step']:.3g} s against "
          f"{median['cached']:.3g} s, ratio {median['every step'] / median['cached']:.2f} "
          f"(target {TARGET}); {same} of {clips} captions the same", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

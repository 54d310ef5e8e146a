"""How fast captions are decoded with kept keys and values against encoding all at every step.

    python benchmarks/captioning.py [--clips 8 16] [--words 12 20 31] [--device cpu|cuda]
                                    [--architecture ViT-B-32]

Both sides run the same beam search (beam 5, facts 8.3) of the same captioner of ViT-B/32: text
tower 12 layers of 512, joint encoder 4 layers of 512, 49,411 words; random weights and features, 12
frames and 6 segments a clip. "Every step" passes the words so far of every hypothesis through the
text tower, and these with frames and segments through the joint encoder; both sides apply the head
to the newest word only. The end token is made impossible, so that every caption has all the words
asked for: 12, as MSR-VTT's have on average, 20, and 31, the longest. On a GPU in half precision.
"""

import dataclasses

import bench
import torch

from clip4vla.common.device import autocast, pick_device
from clip4vla.loading.tokens import END, PAD
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.decoding import Decoding, decode
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.common.encoded import FeatureSequence, each

LAYERS, MAX_WORDS, FRAMES, SEGMENTS = 4, 32, 12, 6
BEAM = Decoding(method="beam", beams=5)


def build(architecture):
    """A captioner whose towers for frames and sound are left out: they run once on both sides."""
    sizes = dataclasses.replace(resolve(architecture), vision_layers=1)
    torch.manual_seed(0)
    model = CLIP4VLA(sizes)
    model.add_captioner(LAYERS, MAX_WORDS, FRAMES)
    model.captioner.joint.copy_from(model.text)
    with torch.no_grad():
        model.captioner.head.dense.weight.mul_(20.0)  # hypotheses that differ
        model.captioner.head.bias[[END, PAD]] = -1e4
    return model.eval()


def parser():
    made = bench.parser(__doc__, rounds=3, device=True)
    made.add_argument("--clips", type=int, nargs="+", default=[8, 16], help="decoded together")
    made.add_argument("--words", type=int, nargs="+", default=[12, 20, 31])
    made.add_argument("--architecture", default="ViT-B-32")
    return made


def rows(options):
    device = pick_device(options.device)
    model = build(options.architecture).to(device)
    for clips in options.clips:
        generator = torch.Generator().manual_seed(1)
        named = {
            name: FeatureSequence(
                torch.randn(clips, length, model.sizes.embed_dim, generator=generator),
                torch.ones(clips, length, dtype=torch.bool),
            )
            for name, length in (("vision", FRAMES), ("audio", SEGMENTS))
        }
        encoded = each(named, lambda x: x.to(device))
        for words in options.words:
            yield compared(model, encoded, clips, words, options)


def compared(model, encoded, clips, words, options):
    device = next(model.parameters()).device

    def side(cache):
        with autocast(device):
            decoding = BEAM.model_copy(update={"cache": cache})
            return [caption.ids for caption in decode(model, encoded, decoding, words)]

    def agreement(ours, baseline):
        assert all(len(ids) == words for ids in ours.result)
        different = sum(a != b for a, b in zip(ours.result, baseline.result, strict=True))
        most = 0 if options.device == "cpu" else clips / 2  # in half precision logits tie
        return bench.agreed(f"of {clips} captions differ:", different, most)

    return bench.compare(
        f"beam {BEAM.beams}, {clips} clips, {words} words",
        lambda: side(cache=True),
        lambda: side(cache=False),
        against="re-encoding every step",
        options=options,
        target="at least 5 on a CPU",
        note=agreement,
    )


if __name__ == "__main__":
    bench.main(parser(), rows)

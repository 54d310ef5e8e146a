"""How fast clips are encoded on a CPU for evaluation and search, against torch's own products.

    python benchmarks/encoding.py [--clips 2] [--architecture ViT-B-32] [--threads N]

Both sides encode the same clips and captions by CLIP4VLA's towers: 12 frames, 16 segments of sound
and 32 words each, noise and random weights. Ours is in the context that all commands encode in,
which gives large products to oneDNN where that takes less time (AMD processors with AVX-512).
"""

import contextlib

import bench
import torch
from stages import batch_of, runs

from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.device import autocast, pick_device
from clip4vla.common.onednn import is_faster

CPU = pick_device("cpu")  # memory is kept by the process, as in a run
MOST = 1e-5  # of vectors of about one: float32 has 6e-8, and twelve blocks add theirs


def parser():
    made = bench.parser(__doc__, rounds=3)
    made.add_argument("--clips", type=int, default=2)
    made.add_argument("--architecture", default="ViT-B-32")
    return made


def rows(options):
    run = runs(options.architecture)["global_to_global"]
    model = initial_model(run.model, run.inputs, None, {}, run.task, seed=0).eval()
    batch = batch_of(run, options.clips, CPU)

    @torch.no_grad()
    def encoded(context):
        with context():
            clips = model.encode_clips(batch, ["vision", "audio"])
            words, text = model.encode_text(batch["tokens"])
        return [words, text, *(sequence.features for sequence in clips.values())]

    def note(ours, baseline):
        worst = max(
            ((x - y).abs().max() / y.abs().max()).item()
            for x, y in zip(ours.result, baseline.result, strict=True)
        )
        by = "oneDNN" if is_faster() else "MKL on both sides"
        return f"{by}; {bench.agreed('vectors differ, in their largest number, by', worst, MOST)}"

    yield bench.compare(
        f"{options.clips} clips and captions, {options.architecture}",
        lambda: encoded(lambda: autocast(CPU)),
        lambda: encoded(contextlib.nullcontext),
        against="torch's own products",
        options=options,
        note=note,
    )


if __name__ == "__main__":
    bench.main(parser(), rows)

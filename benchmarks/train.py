"""How fast stage-1 pre-training runs as a whole, reading included, against a plain loop.

    python benchmarks/train.py [--clips 2] [--threads 1] [--device cpu|cuda] [--workers 0]
                               [--microbatch N] [--checkpointing] [--compile]
                               [--architecture ViT-B-32]

A step is reading a batch from shards, forward, backward and AdamW, at ViT-B/32 with random
weights. The plain loop is that of `step.py` around the same batches: float32, frozen towers
computed in every step, every clip with 12 frames, 10 segments and 32 words whether it fills them or
not, three channels in memory. Ours is the project's own: CLIP's frozen vectors computed once (what
that takes is printed and is in no step), padding not encoded, half precision on a GPU, and what the
switches say.

Each side is a process of its own, so that peak memory is that side's; both take steps on the same
clips with the same weights, and must begin with the same loss. Clips are made up: half of
10 s, half of 10 to 18 s (as in `step.py`), noise for pictures, tones for sound.
"""

import tempfile
import time
from pathlib import Path

import bench
import numpy as np
import torch
from step import FRAMES, SEGMENTS, PlainStep, losses
from torch.nn.functional import pad
from usual import RATE, frozen

from clip4vla.cache.clips import ClipCache
from clip4vla.common.device import half_type, pick_device
from clip4vla.config.run import Pretrain, Source
from clip4vla.config.sections import Inputs, Masking, Optimiser
from clip4vla.inference.frozen import frozen_samples
from clip4vla.loading.batches import ClipBatches
from clip4vla.loading.samples import ClipSamples
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.model import set_trainable
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.tasks import PretrainTask
from clip4vla.models.common.images import pixels
from clip4vla.training.gradients import backward
from clip4vla.training.meter import Meter
from clip4vla.training.optimiser import Updates
from clip4vla.training.switches import Switches

VERSION = "train-v1-000000"
INPUTS = Inputs(max_frames=FRAMES, max_segments=SEGMENTS)
SOURCE = Source(dataset=VERSION, cache_id="none", split="s")
OPTIMISER = Optimiser(lr=1e-5, epochs=1)
STEPS = 10_000  # of the schedule, which begins with a rate of zero
CAPTIONS = "the sound of speech and music", "then add the onions and stir"


def write_clips(folder, count):
    """A frozen dataset version of `count` clips; its manifest and what is read of it."""
    draw = np.random.default_rng(0)
    seconds = np.where(np.arange(count) % 2, 10.0, 10 + 8 * draw.random(count))
    length = {f"clip{i}": float(value) for i, value in enumerate(seconds)}

    def sound(name):
        time_axis = np.arange(int(length[name] * RATE)) / RATE
        return np.sin(2 * np.pi * 440 * time_axis, dtype=np.float32)[None]

    def pictures(name):
        for _ in range(int(length[name])):
            yield draw.integers(0, 255, (240, 320, 3), dtype=np.uint8)

    manifest = frozen(folder, length, sound, pictures, VERSION)
    return manifest, [(name, CAPTIONS[i % 2], "") for i, name in enumerate(length)]


class Ours:
    """The project's step. Vectors of the frozen towers are made here, once."""

    def __init__(self, model, samples, options, device):
        self.device, began = device, time.process_time()
        set_trainable(model, "audio")
        model.to(device)
        samples = frozen_samples(model, samples, device, options.workers)
        self.once = time.process_time() - began
        switches = Switches(True, options.checkpointing, options.compile)
        switches.apply(model, device)
        self.task = PretrainTask(model, Pretrain(sources=[SOURCE], masking=Masking()))
        self.batches = ClipBatches(
            [samples],
            0,
            options.clips,
            options.workers,
            device,
            microbatch=options.microbatch,
            processor=model.processor,
        )
        half = half_type(device) is torch.float16
        self.updates, self.done = Updates(model, OPTIMISER, STEPS, float16=half), 0
        model.train()

    def step(self, chunks):
        """One update; the loss."""
        loss, _ = backward(self.task, chunks, self.device, self.updates.scaled)
        self.updates(self.done)
        self.done += 1
        return loss.item()


class Plain:
    """The plain step."""

    once = 0.0

    def __init__(self, model, samples, options, device):
        self.device = device
        set_trainable(model, "audio")
        self.loss = PlainStep(model.to(device), device)
        self.batches = ClipBatches([samples], 0, options.clips, options.workers, device)
        learns = [p for p in self.loss.audio.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(learns, lr=0.0)  # the schedule begins there too

    def step(self, chunks):
        """One update; the loss."""
        loss = self.loss(self.fixed(chunks[0]))
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item()

    def fixed(self, batch):
        """The batch in buffers of full size, as floats of three channels, on the device."""
        whole = {"nonverbal_share": batch["nonverbal_share"], "tokens": batch["tokens"]}
        for mask, names, size in (
            ("frame_mask", ["frames"], FRAMES),
            ("audio_mask", ["audio", "masked_audio"], SEGMENTS),
        ):
            room = size - batch[mask].shape[1]
            whole[mask] = pad(batch[mask], (0, room))
            for name in names:
                x = pad(batch[name], (0, 0) * 3 + (0, room))
                whole[name] = x.expand(-1, -1, 3, -1, -1).contiguous()
        whole = {name: x.to(self.device) for name, x in whole.items()}
        frames = whole["frames"]  # uint8 [B, F, 3, H, W]
        whole["frames"] = pixels(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return whole


def stepper(side, manifest, items, options):
    """What a round of a side calls: one step, reading included."""
    device = pick_device(options.device)
    samples = ClipSamples(ClipCache(manifest), items, INPUTS, 0.5, masking=Masking())
    model = build_model(Model(architecture=options.architecture, weights=None), {}, seed=0)
    worker, meter = side(model, samples, options, device), Meter(device)
    endless = (chunks for epoch in range(STEPS) for chunks in worker.batches(epoch, 0))
    reading = iter(meter.reading(endless))

    losses = []

    def step():
        losses.append(worker.step(next(reading)))
        meter.step(options.clips)
        waited = meter.recent.wait_share
        meter.take()
        return losses[0], waited, worker.once

    return step


def parser():
    made = bench.parser(__doc__, rounds=3, device=True)
    made.add_argument("--clips", type=int, default=2, help="of a step")
    made.add_argument("--architecture", default="ViT-B-32", help="tiny: to try this script")
    made.add_argument("--workers", type=int, default=0, help="processes that read; 0: inline")
    made.add_argument("--microbatch", type=int, help="ours: gradient caching")
    made.add_argument("--checkpointing", action="store_true", help="ours: recomputed blocks")
    made.add_argument("--compile", action="store_true", help="ours: torch.compile")
    return made


def rows(options):
    with tempfile.TemporaryDirectory() as home:
        manifest, items = write_clips(Path(home), 2 * options.clips)
        with (
            bench.Apart(stepper, Plain, manifest, items, options) as plain,
            bench.Apart(stepper, Ours, manifest, items, options) as ours,
        ):
            yield bench.compare(
                f"stage 1 with reading, {options.architecture}, {options.clips} clips",
                ours,
                plain,
                against="a plain loop, padded, float32",
                options=options,
                note=lambda *sides: told(*sides, options.device),
                memory=True,
            )


def told(ours, plain, device):
    loss, waited, once = ours.result
    return (
        f"first {losses(loss, plain.result[0], device)}; waits for data {waited:.1%} of a step; "
        f"frozen vectors, once: {once:.1f} s of CPU"
    )


if __name__ == "__main__":
    bench.main(parser(), rows)

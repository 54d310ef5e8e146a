"""How fast stage-1 pre-training runs as a whole, reading included, against a plain loop.

    python benchmarks/train.py [--clips 2] [--rounds 3] [--threads 1] [--device cpu|cuda]
                               [--workers 0] [--microbatch N] [--checkpointing] [--compile]
                               [--architecture ViT-B-32]

A step is reading a batch from shards, forward, backward and AdamW, at ViT-B/32 with random
weights. The plain loop is that of `step.py` around the same batches: float32, frozen towers
computed in every step, every clip with 12 frames, 10 segments and 32 words whether it fills them or
not, three channels in memory. Ours is the project's own: CLIP's frozen vectors computed once (what
that takes is printed and is in no step), padding not encoded, half precision on a GPU, and what the
switches say.

Each side is a process of its own, so that peak memory is that side's; they take steps in turn, on
the same clips with the same weights, and must begin with the same loss. Clips are made up: half of
10 s, half of 10 to 18 s (as in `step.py`), noise for pictures, tones for sound.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from step import FRAMES, SEGMENTS, PlainStep, print_times, share_of_peak
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.manifest import freeze
from clip4vla.cache.shards import build_shard
from clip4vla.common.device import half_type, pick_device, set_threads
from clip4vla.common.files import write_parquet
from clip4vla.config.data import Cache
from clip4vla.config.run import Pretrain, Source
from clip4vla.config.sections import Inputs, Masking, Optimiser
from clip4vla.inference.frozen import frozen_samples
from clip4vla.loading.batches import ClipBatches
from clip4vla.loading.samples import ClipSamples
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.model import set_trainable
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.tasks import PretrainTask
from clip4vla.training.gradients import backward
from clip4vla.training.meter import GIB, Meter
from clip4vla.training.optimiser import Updates
from clip4vla.training.switches import Switches

RATE, VERSION = 16000, "train-v1-000000"
INPUTS = Inputs(max_frames=FRAMES, max_segments=SEGMENTS)
SOURCE = Source(dataset=VERSION, cache_id="none", split="s")
OPTIMISER = Optimiser(lr=1e-5, epochs=1)
STEPS = 10_000  # of the schedule, which begins with a rate of zero


def write_clips(folder, count):
    """A frozen dataset version of `count` clips."""
    draw = np.random.default_rng(0)
    seconds = np.where(np.arange(count) % 2, 10.0, 10 + 8 * draw.random(count))
    names = [f"clip{i}" for i in range(count)]
    length = dict(zip(names, seconds, strict=True))

    def sound(path):
        time_axis = np.arange(int(length[Path(path).stem] * RATE)) / RATE
        return np.sin(2 * np.pi * 440 * time_axis, dtype=np.float32)[None], RATE

    def pictures(path, fps, end=None):
        for _ in range(int(length[Path(path).stem])):
            yield draw.integers(0, 255, (240, 320, 3), dtype=np.uint8)

    shared = {"shard": 0, "start": 0.0, "fetch": "ok", "video": "ok", "audio": "ok"}
    shared |= {"sound": "unknown", "tool": "", "decoder": ""}
    rows = [
        {"clip_id": n, "path": str(folder / f"{n}.mp4"), "end": s, "duration": s} | shared
        for n, s in length.items()
    ]
    for row in rows:
        Path(row["path"]).touch()
    ledger, index = pd.DataFrame(rows), folder / "shards" / "0.parquet"
    table = build_shard(ledger, Cache(), index.with_suffix(".tar"), sound, pictures)
    write_parquet(index, table)
    captions = ["the sound of speech and music", "then add the onions and stir"]
    splits = [
        {"split": "s", "clip_id": n, "captions": [captions[i % 2]], "label": ""}
        for i, n in enumerate(names)
    ]
    freeze(ledger, pd.DataFrame(splits), [index], VERSION, Cache(), folder)
    return folder / "manifest.json", [(s["clip_id"], s["captions"][0], "") for s in splits]


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
        given = options.workers, device, options.microbatch
        self.batches = ClipBatches([samples], 0, options.clips, *given)
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
        self.loss = PlainStep(model.to(device))
        for tower in (self.loss.text, self.loss.vision, self.loss.audio):
            tower.to(device)
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
        whole["frames"] = pixels_of(whole["frames"])
        return whole


def pixels_of(frames):
    """CLIP's input of uint8 frames [B, F, 3, H, W]."""
    from clip4vla.models.common.images import pixels

    return pixels(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


def work(side, manifest, items, options, pipe):
    """One side: a step at each word of the parent, until it says nothing."""
    set_threads(options.threads)
    device = pick_device() if options.device == "cuda" else torch.device("cpu")
    samples = ClipSamples(ClipCache(manifest), items, INPUTS, 0.5, masking=Masking())
    model = build_model(Model(architecture=options.architecture, weights=None), {}, seed=0)
    worker, meter = side(model, samples, options, device), Meter(device)
    endless = (chunks for epoch in range(STEPS) for chunks in worker.batches(epoch, 0))
    reading = iter(meter.reading(endless))
    pipe.send(worker.once)
    flops = 0.0
    while (count := pipe.recv()) is not None:
        cpu, wall = time.process_time(), time.perf_counter()
        chunks = next(reading)
        if count:
            with FlopCounterMode(display=False) as counter:
                loss = worker.step(chunks)
            flops = counter.get_total_flops()
        else:
            loss = worker.step(chunks)
        meter.step(options.clips)
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - wall, time.process_time() - cpu
        pipe.send((loss, *spent, meter.recent.wait_share, meter.peak_memory, flops))
        meter.take()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=2, help="of a step")
    parser.add_argument("--architecture", default="ViT-B-32", help="tiny: to try this script")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that read; 0: inline")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--microbatch", type=int, help="ours: gradient caching")
    parser.add_argument("--checkpointing", action="store_true", help="ours: recomputed blocks")
    parser.add_argument("--compile", action="store_true", help="ours: torch.compile")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as home:
        manifest, items = write_clips(Path(home), 2 * options.clips)
        pipes, children = {}, []
        for name, side in (("plain", Plain), ("ours", Ours)):
            pipes[name], theirs = context.Pipe()
            given = side, manifest, items, options, theirs
            children.append(context.Process(target=work, args=given))
            children[-1].start()
            once = pipes[name].recv()
        for number in range(options.rounds + 1):  # the first one warms up, and counts operations
            for name, pipe in pipes.items():
                pipe.send(number == 0)
                found[name].append(pipe.recv())
        for pipe in pipes.values():
            pipe.send(None)
        for child in children:
            child.join()
    report(options, found, once)


def report(options, found, once):
    """Print what was found."""
    device = torch.device(options.device)
    print(f"{options.architecture}, {options.clips} clips a step, {options.rounds} rounds, "
          f"{options.device}, {options.threads} of {os.cpu_count()} threads, "
          f"{options.workers} reader(s); "
          f"ours in {half_type(device) or 'float32'}, microbatch {options.microbatch}, "
          f"checkpointing {options.checkpointing}, compile {options.compile}")  # fmt: skip
    print(f"torch {torch.__version__}, {platform.machine()}, Python {platform.python_version()}")
    losses = {name: results[0][0] for name, results in found.items()}
    print(f"first loss {losses['ours']:.5f}, of the plain loop {losses['plain']:.5f}")
    print(f"frozen vectors of {2 * options.clips} clips, once: {once:.1f} s of CPU")
    print_times({name: rows[1:] for name, rows in found.items()}, device)
    for name, rows in found.items():
        wait = statistics.median(row[3] for row in rows[1:])
        print(f"{name:6} waits for data {wait:.1%} of a step, peak memory {rows[-1][4] / GIB:.2f} "
              f"GiB, {rows[0][5] / 1e12:.2f} TFLOP a step")  # fmt: skip
    wall = statistics.median(row[1] for row in found["ours"][1:])
    print(share_of_peak(found["ours"][0][5], wall, device))


if __name__ == "__main__":
    main()

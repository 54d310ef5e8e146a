"""How fast the steps of every stage are, and what `clip4vla plan --tflops` is to be given.

    python benchmarks/stages.py [--device cpu|cuda] [--clips 32] [--stages NAME ...]
                                [--microbatch N] [--checkpointing] [--compile]
                                [--architecture ViT-B-32]

A step is what the trainer does between two reads: a batch from pinned memory to the device, forward
and backward, clipping, AdamW. Random weights, noise; every clip has 12 frames, 10 segments of mono
sound (pre-training) or 16 (fine-tuning), and 32 words; 32 clips are the share of one of the
authors' GPUs. Stage 1 reads CLIP's vectors, which are computed once for all epochs; local_to_local
has a quarter of the clips, as its row has.

With `--compile` a step is compared with the same one without. Operations are counted by torch (a
block that is computed again counts again); the estimate of `clip4vla plan` counts the same products
from the sizes. Kernels (on a CPU: calls of operators) are counted in a trace of one step.
"""

import time

import bench
import torch

from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.device import half_type, pick_device
from clip4vla.config.run import Finetune, Pretrain, Source
from clip4vla.config.sections import Inputs, Masking, Optimiser
from clip4vla.loading.tokenizer import tokenize
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.model import set_trainable
from clip4vla.models.clip4vla.objective import OBJECTIVES
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.tasks import CaptionTask, PretrainTask, RetrievalTask
from clip4vla.training.gradients import backward
from clip4vla.training.optimiser import Updates
from clip4vla.training.switches import Switches

SOURCE = Source(dataset="none", cache_id="none", split="none")
FRAMES, WORDS, STEPS = 12, 32, 1000


def runs(architecture):
    """Every kind of run, by name."""

    def pretrain(**given):
        return Pretrain(
            sources=[SOURCE],
            model=Model(architecture=architecture, weights=None),
            inputs=Inputs(max_frames=FRAMES, max_segments=10, max_words=WORDS),
            masking=Masking(),
            **given,
        )

    def finetune(task="retrieval", **model):
        model = Model(architecture=architecture, weights=None, **model)
        inputs = Inputs(max_frames=FRAMES, max_segments=16, max_words=WORDS)
        data = {"start": None, "train": SOURCE, "val": None, "selection": "last"}
        return Finetune(
            task=task, model=model, inputs=inputs, objective=OBJECTIVES["finetune"], **data
        )

    return {
        "stage 1": pretrain(),
        "stage 2": pretrain(trainable="all"),
        "global_to_global": finetune(),
        "global_to_local": finetune(fusion="global_to_local"),
        "local_to_local": finetune(fusion="local_to_local"),
        "captioning": finetune("captioning"),
    }


def task_of(run):
    """The task of a run, ready to train."""
    pretrains = isinstance(run, Pretrain)
    model = initial_model(run.model, run.inputs, None, {}, None if pretrains else run.task, seed=0)
    set_trainable(model, run.trainable if pretrains else "all")
    if pretrains:
        return PretrainTask(model, run)
    return (CaptionTask if run.task == "captioning" else RetrievalTask)(model, run)


def batch_of(run, clips, device):
    """A batch as the loader gives it."""
    draw = torch.Generator().manual_seed(0)
    size, segments = 224, run.inputs.max_segments
    width = resolve(run.model.architecture).embed_dim
    caption = "stir " * WORDS
    batch = {
        "clip_id": [f"clip{i}" for i in range(clips)],
        "tokens": tokenize([f"{caption} {i}" for i in range(clips)], WORDS),
        "nonverbal_share": torch.full((clips,), 0.5),
        "has_audio": torch.ones(clips, dtype=torch.bool),
        "audio": torch.randn(clips, segments, 1, size, size, generator=draw).half(),
        "audio_mask": torch.ones(clips, segments, dtype=torch.bool),
    }
    if isinstance(run, Pretrain):
        steps = torch.ones(clips, segments, size, dtype=torch.bool)
        batch |= {"own_steps": steps, "masked_steps": torch.rand(steps.shape, generator=draw) < 0.5}
        batch["masked_bands"] = torch.rand(clips, size, generator=draw) < 0.5
    if isinstance(run, Pretrain) and run.trainable == "audio":
        batch |= {name: torch.randn(clips, width, generator=draw) for name in ("text", "vision")}
    else:
        shape = clips, FRAMES, 3, size, size
        batch["frames"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
        batch["frame_mask"] = torch.ones(clips, FRAMES, dtype=torch.bool)
    if device.type == "cuda":
        batch = {k: x.pin_memory() if torch.is_tensor(x) else x for k, x in batch.items()}
    return batch


def cut(batch, size):
    """The batch in chunks of `size` clips."""
    rows = range(0, len(batch["clip_id"]), size)
    return [{name: x[i : i + size] for name, x in batch.items()} for i in rows]


class Step:
    """One update of one run, again and again on the same batch."""

    def __init__(self, run, clips, device, microbatch=None, switches=Switches()):
        self.task, self.device = task_of(run), device
        self.task.model.to(device).train()
        switches.apply(self.task.model, device)
        self.chunks = cut(batch_of(run, clips, device), microbatch or clips)
        half = half_type(device) is torch.float16
        self.updates = Updates(self.task.model, Optimiser(lr=1e-5), STEPS, self.task.heads, half)
        self.done = 0

    def __call__(self):
        """Forward, backward, update."""
        loss, _ = backward(self.task, self.chunks, self.device, self.updates.scaled)
        loss.item()  # as the trainer does, to see whether it is finite
        self.updates(self.done)
        self.done += 1


def parser():
    made = bench.parser(__doc__, rounds=10, device=True)
    made.add_argument("--clips", type=int, default=32, help="of a step, on one device")
    made.add_argument("--stages", nargs="+", help="all, if left out")
    made.add_argument("--microbatch", type=int, help="gradient caching, accumulation")
    made.add_argument("--checkpointing", action="store_true", help="recomputed blocks")
    made.add_argument("--compile", action="store_true", help="compare with torch.compile")
    made.add_argument("--architecture", default="ViT-B-32")
    return made


def rows(options):
    device = pick_device(options.device)
    for name, run in runs(options.architecture).items():
        if options.stages and name not in options.stages:
            continue
        clips = max(2, options.clips // 4) if name == "local_to_local" else options.clips

        def make(compiled, run=run, clips=clips):
            switches = Switches(activation_checkpointing=options.checkpointing, compile=compiled)
            return Step(run, clips, device, options.microbatch, switches)

        eager = make(compiled=False)
        step = compiled_step(make(compiled=True)) if options.compile else eager
        sides = dict.fromkeys([step, eager])  # one, if they are the same
        launched = " against ".join(bench.launches(side, options.device) for side in sides)
        yield bench.compare(
            f"{name}, {options.architecture}, {clips} clips",
            step,
            eager if options.compile else None,
            against="without compile" if options.compile else "",
            options=options,
            note=lambda *_, launched=launched: launched,
        )


def compiled_step(step):
    """Compile a step; its second call, in which operations are counted, runs without."""
    began = time.perf_counter()
    step()
    print(f"the first compiled step took {time.perf_counter() - began:.1f} s", flush=True)
    stances = iter(["default", "force_eager"])

    def again():
        with torch.compiler.set_stance(next(stances, "default")):
            step()

    return again


if __name__ == "__main__":
    bench.main(parser(), rows)

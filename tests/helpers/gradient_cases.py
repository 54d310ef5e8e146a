"""Tasks on a tiny CLIP4VLA in float64, a made batch, and the gradients of a step."""

import functools

import torch
from tiny_world import INPUTS, MODEL, finetune, pretrain

from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.loading.tokenizer import tokenize
from clip4vla.models.clip4vla.model import set_trainable
from clip4vla.models.clip4vla.objective import Objective
from clip4vla.models.clip4vla.tasks import CaptionTask, PretrainTask, RetrievalTask
from clip4vla.training.gradients import backward

CPU = torch.device("cpu")
WORDS = ["a dog", "two red cars on a road", "rain", "wind and rain", "a dog", "one", "", "two cats"]
CLIPS = ["x", "y", "z", "x", "w", "v", "u", "y"]  # x and y twice: multi_positive sees them
FRAMES, SEGMENTS = [1, 2, 1, 1, 1, 1, 2, 2], [1, 1, 0, 2, 1, 1, 2, 1]
EVERYTHING = Objective(temperature="learnable", multi_positive=True, self_similarity=True)
LEARNED = Objective(temperature="learnable", symmetric=False)


def fused(fusion, joint="clip", **given):
    model = MODEL.model_copy(update={"fusion": fusion, "joint": joint})
    return finetune(model=model, objective=Objective(scale=10.0), **given)


CASES = {
    "stage 1": pretrain(objective=Objective(scale=10.0)),
    "stage 1, learned scale": pretrain(objective=Objective(temperature="learnable")),
    "stage 2, every term": pretrain(objective=EVERYTHING, trainable="all"),
    "stage 2, released": pretrain(objective=Objective(second_stage="released"), trainable="all"),
    "global_to_global": finetune(objective=LEARNED),
    "global_to_local": fused("global_to_local"),
    "tight": fused("tight"),
    "local_to_local": fused("local_to_local", joint="bert"),
    "local_to_local, vision": fused("local_to_local", modalities=["vision"]),
    **{gate: fused(gate) for gate in ("feat2feat", "query2sim")},
    "captions": finetune("captioning"),
    "captions, pads": finetune("captioning", pad_loss=True),
}
CONTRASTIVE = [name for name in CASES if not name.startswith("captions")]


def in_double():
    """What losses and pooling do in float32 at least is left in float64."""
    torch.Tensor.float = lambda x: x if x.dtype == torch.float64 else x.to(torch.float32)


def make_task(name, train=False, dtype=torch.float64):
    run = CASES[name]
    what = run.trainable if run.stage == "pretrain" else "all"
    task = None if run.stage == "pretrain" else run.task
    model = initial_model(run.model, INPUTS, None, {}, task, seed=2).to(dtype).train(train)
    set_trainable(model, what, run.freeze, run.objective.temperature)
    if run.stage == "pretrain":
        return PretrainTask(model, run)
    return (CaptionTask if run.task == "captioning" else RetrievalTask)(model, run)


@functools.cache
def make_batch(size=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)

    def images(lengths):
        mask = torch.arange(2) < torch.tensor(lengths)[:, None]
        return torch.randn(8, 2, 3, 224, 224, generator=generator, dtype=dtype), mask

    frames, frame_mask = images(FRAMES)
    audio, audio_mask = images(SEGMENTS)
    batch = {
        "clip_id": CLIPS,
        "frames": frames,
        "frame_mask": frame_mask,
        "audio": audio,
        "masked_audio": audio + images(SEGMENTS)[0],
        "audio_mask": audio_mask,
        "has_audio": audio_mask.any(1),
        "nonverbal_share": torch.linspace(0, 1, 8, dtype=dtype),
        "tokens": tokenize(WORDS, INPUTS.max_words),
    }
    return cut(batch, slice(0, size))


def cut(batch, rows):
    """Some clips, with only the padding that they need, as a loader would give them."""
    part = {key: value[rows] for key, value in batch.items()}
    for mask, names in (("frame_mask", ["frames"]), ("audio_mask", ["audio", "masked_audio"])):
        longest = max(1, int(part[mask].sum(1).max()))
        for name in (mask, *names):
            part[name] = part[name][:, :longest].contiguous()
    return part


def chunks_of(batch, size):
    count = len(batch["clip_id"])
    return [cut(batch, slice(i, min(i + size, count))) for i in range(0, count, size)]


def unscaled(loss):
    return loss


def gradients(task, chunks, scaled=unscaled, device=CPU):
    """Loss and the gradient of every parameter (None where it has none)."""
    task.model.zero_grad(set_to_none=True)
    loss, _ = backward(task, chunks, device, scaled)
    return loss.item(), {name: p.grad for name, p in task.model.named_parameters()}


def assert_equal(found, expected, tolerance):
    """The largest difference, as a share of the largest gradient of all."""
    assert {n for n, g in found.items() if g is None} == {
        n for n, g in expected.items() if g is None
    }
    present = {name: grad for name, grad in expected.items() if grad is not None}
    largest = max(grad.abs().max().item() for grad in present.values())
    assert largest > 1e-4
    for name, grad in present.items():
        worst = (found[name] - grad).abs().max().item()
        assert worst <= tolerance * largest, f"{name}: {worst:.3g} of {largest:.3g}"

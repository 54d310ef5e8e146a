"""A tiny CoAVT, its tasks, and a made batch."""

import torch

from clip4vla.config.data import Cache
from clip4vla.config.run import Finetune, Pretrain, Source
from clip4vla.config.sections import Inputs, Optimiser
from clip4vla.models.coavt.model import CoAVT
from clip4vla.models.coavt.objective import Objective
from clip4vla.models.coavt.settings import Model
from clip4vla.models.family import family_of

FAMILY = family_of("coavt")
CACHE = Cache(log_mel={"n_mels": 128, "channels": "mean"})
INPUTS = Inputs(max_frames=2, max_segments=1, segment_steps=64, max_words=8)
STEPS, BANDS = 64, 128
CPU = torch.device("cpu")
WORDS = ["a dog", "two red cars on a road", "rain", "wind and rain", "a dog", "one", "", "two cats"]
CLIPS = ["x", "y", "z", "x", "w", "v", "u", "y"]  # x and y twice: grouped sees them
FRAMES, SOUNDS = [1, 2, 1, 1, 1, 0, 2, 2], [1, 1, 0, 1, 1, 1, 1, 1]


def model_section(**given):
    return Model(family="coavt", architecture="tiny", **given)


def build(task=None, n_classes=None, seed=1, **given) -> CoAVT:
    return FAMILY.build(model_section(**given), {}, task, n_classes, seed, INPUTS)


def source(split="train"):
    return Source(dataset="tiny-v1-000000", cache_id="cafe0001", split=split)


def pretrain(model=None, **given):
    values = {"sources": [source()], "trainable": "all"}
    common = {"model": model or model_section(), "inputs": INPUTS, "cache": CACHE}
    return Pretrain(**(common | values | given))


def finetune(task="retrieval", model=None, **given):
    values = {"start": None, "task": task, "train": source(), "val": None, "selection": "last"}
    common = {"model": model or model_section(), "inputs": INPUTS, "cache": CACHE}
    return Finetune(**(common | values | given))


def objective(**given):
    return Objective(**given)


EVERYTHING = Objective(bimodal_language=0.5, audio_visual_contrast=0.3, visual_text=0.7)
CHUNKED = Optimiser(microbatch=2)
CASES = {
    "everything": pretrain(objective=EVERYTHING),
    "as LAVIS": pretrain(objective=Objective(gathered_gradient=False, grouped=False)),
    "contrast": pretrain(objective=Objective(matching=0, language=0)),
    "matching": pretrain(objective=Objective(contrast=0, language=0)),
    "sounds": finetune(modalities=["audio"]),
    "retrieval": finetune(objective=Objective(audio_text=0)),
    "text apart": pretrain(model=model_section(share_text=False)),
    "captions": finetune("captioning"),
}


def make_task(name, train=False, dtype=torch.float64, dropout=0.0, microbatch=None):
    run = CASES[name]
    model = run.model.model_copy(update={"dropout": dropout})
    optimiser = run.optimiser.model_copy(update={"microbatch": microbatch})
    run = run.model_copy(update={"model": model, "optimiser": optimiser})
    built = FAMILY.build(model, {}, None, None, 2, INPUTS).to(dtype).train(train)
    FAMILY.prepare(built, run)
    return FAMILY.task(built, run)


def make_batch(size=8, dtype=torch.float64, frames=FRAMES, sounds=SOUNDS):
    generator = torch.Generator().manual_seed(4)
    pictures = torch.randn(8, 2, 3, 224, 224, generator=generator, dtype=dtype)
    audio = torch.randn(8, 1, 1, STEPS, BANDS, generator=generator, dtype=dtype)
    frame_mask = torch.arange(2) < torch.tensor(frames)[:, None]
    audio_mask = torch.arange(1) < torch.tensor(sounds)[:, None]
    batch = {
        "clip_id": CLIPS,
        "frames": pictures * frame_mask[..., None, None, None],
        "frame_mask": frame_mask,
        "audio": audio * audio_mask[..., None, None, None],
        "audio_mask": audio_mask,
        "has_audio": audio_mask.any(1),
        "tokens": build_processor().tokenize(WORDS, INPUTS.max_words),
    }
    return cut(batch, slice(0, size))


def build_processor():
    return FAMILY.empty(model_section(), None, None, INPUTS).processor


def cut(batch, rows):
    """Some clips, with only the padding that they need, as a loader would give them."""
    part = {key: value[rows] for key, value in batch.items()}
    longest = max(1, int(part["frame_mask"].sum(1).max()))
    for name in ("frame_mask", "frames"):
        part[name] = part[name][:, :longest].contiguous()
    return part


def chunks_of(batch, size):
    count = len(batch["clip_id"])
    return [cut(batch, slice(i, min(i + size, count))) for i in range(0, count, size)]

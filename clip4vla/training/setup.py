"""From a run's config and data to its task and batches."""

from dataclasses import dataclass
from pathlib import Path

import torch

from clip4vla.config.run import Finetune, Pretrain, Source
from clip4vla.errors import UserError
from clip4vla.evaluation.probe_features import probe_features
from clip4vla.evaluation.reading import (
    Caches,
    clip_items,
    pair_items,
    read_donors,
    samples_of,
    split_rows,
)
from clip4vla.evaluation.start import starting_model
from clip4vla.features.cache import ClipCache
from clip4vla.features.samples import ClipSamples
from clip4vla.features.vectors import FrozenSamples
from clip4vla.models.clip4vla import learning_parts, set_trainable
from clip4vla.training.batches import ClipBatches, FeatureBatches
from clip4vla.training.frozen import frozen_samples
from clip4vla.training.gradients import Task
from clip4vla.training.loop import Batches
from clip4vla.training.ranks import Ranks
from clip4vla.training.task import (
    CaptionTask,
    ClassificationTask,
    PretrainTask,
    RetrievalTask,
    Validation,
)


@dataclass(frozen=True)
class Surroundings:
    """What a run gets from outside: data, first weights, donors, and where it computes."""

    caches: Caches
    start: Path | None
    weights: dict[str, Path]
    substitution: Path | None
    device: torch.device
    workers: int
    ranks: Ranks = Ranks()
    frozen_cache: bool = True  # what frozen towers say of a clip is computed once


@dataclass(frozen=True)
class Job:
    """A task, its batches, and what train.json says about the data."""

    task: Task
    batches: Batches
    facts: dict
    classes: list[str] | None = None


def set_up(run: Pretrain | Finetune, around: Surroundings) -> Job:
    """Read the splits and build the model. Raises UserError for data that cannot be trained on."""
    if isinstance(run, Pretrain):
        return _pretraining(run, around)
    if run.task == "classification":
        return _classification(run, around)
    return _text_task(run, around)


def _pretraining(run: Pretrain, around: Surroundings) -> Job:
    """Clips with sound only: a silent one has nothing to contrast."""
    model = starting_model(run.model, run.inputs, around.start, around.weights, seed=run.seed)
    set_trainable(model, run.trainable, run.freeze, run.objective.temperature)
    masking = run.masking if run.objective.intra else None
    modalities = ("vision", "audio") if run.objective.inter else ("audio",)
    sources, facts = [], []
    for source in run.sources:
        cache = around.caches[source]
        rows = split_rows(cache, source)
        if leaks := around.caches.leaks:
            rows = rows[~rows.clip_id.isin(leaks.clips[source.dataset])]
        given = run.inputs, modalities, "filter", None, masking, run.seed
        sources.append(samples_of(cache, pair_items(rows, _where(source)), source, *given))
        facts.append(_clip_facts(cache, source, sources[-1]))
        if leaks:
            facts[-1]["leaks_dropped"] = len(split_rows(cache, source)) - len(rows)
    model.to(around.device)
    clip_learns = not learning_parts(model).isdisjoint({"text", "vision"})
    if around.frozen_cache and "vision" in modalities and not clip_learns:
        given = around.device, around.workers
        sources = [frozen_samples(model, samples, *given) for samples in sources]
    batches = _clip_batches(run, sources, around)
    data = {"train": facts, "val": None} | ({"leaks": leaks.facts} if leaks else {})
    return Job(PretrainTask(model, run), batches, data)


def _text_task(run: Finetune, around: Surroundings) -> Job:
    """Retrieval and captioning: every (clip, caption) pair of train is a sample."""
    given = around.start, around.weights, run.task, None, run.seed
    model = starting_model(run.model, run.inputs, *given)
    set_trainable(model, "all", run.freeze, run.objective.temperature)
    for name, tower in (("vision", model.vision), ("audio", model.audio)):
        if name not in run.modalities:
            tower.requires_grad_(False)
    cache, rows, val = _splits(run, around)
    samples = _samples(run, around, run.train, pair_items(rows, _where(run.train)))
    facts = {"train": [_clip_facts(cache, run.train, samples)], "val": None}
    validation = None
    if val is not None:
        pairs = pair_items(val, _where(run.val))
        val_samples = _samples(run, around, run.val, clip_items(val))
        captions = dict(zip(val.clip_id, map(list, val.captions), strict=True))
        validation = Validation(val_samples, pairs, captions, around.device, around.workers)
        facts["val"] = _clip_facts(around.caches[run.val], run.val, val_samples)
    model.to(around.device)
    make = CaptionTask if run.task == "captioning" else RetrievalTask
    return Job(make(model, run, validation), _clip_batches(run, [samples], around), facts)


def _classification(run: Finetune, around: Surroundings) -> Job:
    """A probe: features of the frozen towers are computed once, here."""
    cache, rows, val = _splits(run, around)
    unlabelled = rows.clip_id[rows.label.fillna("") == ""]
    if len(unlabelled):
        raise UserError(f"{_where(run.train)}: clip {unlabelled.iloc[0]} has no label")
    classes = sorted(set(rows.label))
    given = around.start, around.weights, "classification", len(classes), run.seed
    model = starting_model(run.model, run.inputs, *given).to(around.device)
    set_trainable(model, "head")

    def embed(samples: ClipSamples):
        given = model, samples, run.modalities, around.device, around.workers
        return probe_features(*given, keep=around.frozen_cache)

    samples = _samples(run, around, run.train, clip_items(rows))
    facts = {"train": [_clip_facts(cache, run.train, samples)], "val": None}
    validation, labels = None, []
    if val is not None:
        val_samples = _samples(run, around, run.val, clip_items(val))
        validation, labels = embed(val_samples), [label for _, _, label in val_samples.items]
        facts["val"] = _clip_facts(around.caches[run.val], run.val, val_samples)
    targets = torch.tensor([classes.index(label) for _, _, label in samples.items])
    task = ClassificationTask(model, classes, embed(samples), validation, labels, around.device)
    clip_ids = [clip_id for clip_id, _, _ in samples.items]
    size = run.optimiser.batch_size, run.optimiser.microbatch
    batches = FeatureBatches(clip_ids, targets, run.seed, *size)
    return Job(task, batches, facts, classes)


def _splits(run: Finetune, around: Surroundings):
    """The training cache and the rows of train and val (None where the run has none)."""
    cache = around.caches[run.train]
    val = split_rows(around.caches[run.val], run.val) if run.val is not None else None
    if run.selection == "best_val" and val is None:
        raise UserError("selection: best_val needs a val split; name one or say `last`")
    return cache, split_rows(cache, run.train), val


def _samples(run: Finetune, around: Surroundings, source: Source, items) -> ClipSamples:
    """Samples of a source under the run's policy for silent clips."""
    donors = read_donors(around.substitution, run.missing_audio)
    given = run.inputs, run.modalities, run.missing_audio, donors, None, run.seed
    return samples_of(around.caches[source], items, source, *given)


def _clip_batches(
    run, sources: list[ClipSamples | FrozenSamples], around: Surroundings
) -> ClipBatches:
    ranks = around.ranks.rank, around.ranks.world
    given = around.workers, around.device, run.optimiser.microbatch, *ranks
    return ClipBatches(sources, run.seed, run.optimiser.batch_size, *given)


def _where(source: Source) -> str:
    return f"{source.dataset}, split {source.split}"


def _clip_facts(cache: ClipCache, source: Source, samples: ClipSamples) -> dict:
    """How many clips a split has, and what became of the silent ones."""
    counts = cache.manifest["splits"][source.split]
    used = {clip_id for clip_id, _, _ in samples.items}
    silent = used & cache.silent
    return {
        "dataset": source.dataset,
        "split": source.split,
        "planned": counts["planned"],
        "usable": counts["usable"],
        "clips": len(used),
        "samples": len(samples),
        "silent": counts["silent"],
        "silent_left_out": counts["silent"] - len(silent),
        "silent_with_donor": len(silent & samples.donor_of.keys()),
        "silent_without_sound": len(silent - samples.donor_of.keys()),
        "missing_audio": samples.missing,
    }

"""From a run's config and data to its task and batches."""

from dataclasses import dataclass
from pathlib import Path

import torch

from clip4vla.cache.clips import ClipCache
from clip4vla.checkpoints.initial_weights import starting_model
from clip4vla.common.errors import UserError
from clip4vla.config.data import DONORS_BY, AudioPolicy
from clip4vla.config.run import Finetune, Pretrain, Source
from clip4vla.inference.frozen import frozen_samples
from clip4vla.inference.probe_features import probe_features
from clip4vla.loading.batches import ClipBatches, FeatureBatches
from clip4vla.loading.frozen import FrozenSamples
from clip4vla.loading.loader import (
    Caches,
    Part,
    clip_items,
    pair_items,
    read_donors,
    samples_of,
    split_rows,
)
from clip4vla.loading.samples import ClipSamples
from clip4vla.models.clip4vla.half import halve
from clip4vla.models.clip4vla.model import CLIP4VLA, learning_parts, set_trainable
from clip4vla.training.gradients import Task
from clip4vla.training.loop import Batches
from clip4vla.training.ranks import Ranks
from clip4vla.training.switches import Switches
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
    switches: Switches = Switches()

    @property
    def part(self) -> Part:
        """This rank's part of the batches of clips to validate on."""
        return self.ranks.rank, self.ranks.world


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
        job = _pretraining(run, around)
    elif run.task == "classification":
        job = _classification(run, around)
    else:
        job = _text_task(run, around)
    around.switches.apply(job.task.model, around.device)
    return job


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
            if rows.empty:
                raise UserError(
                    f"{_where(source)}: every clip is of a video in `held_out`, and pretrain.leaks "
                    "is drop; look at datasets.NAME.held_out"
                )
        given = run.inputs, modalities, "filter", None, masking, run.seed
        sources.append(samples_of(cache, pair_items(rows, _where(source)), source, *given))
        facts.append(_clip_facts(cache, source, sources[-1]))
        if leaks:
            facts[-1]["leaks_dropped"] = len(split_rows(cache, source)) - len(rows)
    _place(model, run, around)
    clip_learns = not learning_parts(model).isdisjoint({"text", "vision"})
    if around.switches.frozen_cache and "vision" in modalities and not clip_learns:
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
    cache, rows, held_out = _splits(run, around)
    items = pair_items(rows, _where(run.train))
    samples = _samples(run, around, run.train, run.missing_audio, items)
    facts = {"train": [_clip_facts(cache, run.train, samples)], "val": None}
    validation = None
    if held_out is not None:
        source, policy, val = held_out
        pairs = pair_items(val, _where(source))
        val_samples = _samples(run, around, source, policy, clip_items(val))
        captions = dict(zip(val.clip_id, map(list, val.captions), strict=True))
        given = val_samples, pairs, captions, around.device, around.workers, around.part
        validation = Validation(*given)
        facts |= _held_out_facts(run, around, val_samples)
    _place(model, run, around)
    make = CaptionTask if run.task == "captioning" else RetrievalTask
    return Job(make(model, run, validation), _clip_batches(run, [samples], around), facts)


def _classification(run: Finetune, around: Surroundings) -> Job:
    """A probe: features of the frozen towers are computed once, here."""
    cache, rows, held_out = _splits(run, around)
    unlabelled = rows.clip_id[rows.label.fillna("") == ""]
    if len(unlabelled):
        raise UserError(f"{_where(run.train)}: clip {unlabelled.iloc[0]} has no label")
    classes = sorted(set(rows.label))
    given = around.start, around.weights, "classification", len(classes), run.seed
    model = starting_model(run.model, run.inputs, *given)
    set_trainable(model, "head")
    _place(model, run, around)

    def embed(samples: ClipSamples):
        given = model, samples, run.modalities, around.device, around.workers
        return probe_features(*given, keep=around.switches.frozen_cache)

    samples = _samples(run, around, run.train, run.missing_audio, clip_items(rows))
    facts = {"train": [_clip_facts(cache, run.train, samples)], "val": None}
    validation, labels = None, []
    if held_out is not None:
        source, policy, val = held_out
        val_samples = _samples(run, around, source, policy, clip_items(val))
        validation, labels = embed(val_samples), [label for _, _, label in val_samples.items]
        facts |= _held_out_facts(run, around, val_samples)
    targets = torch.tensor([classes.index(label) for _, _, label in samples.items])
    task = ClassificationTask(model, classes, embed(samples), validation, labels, around.device)
    clip_ids = [clip_id for clip_id, _, _ in samples.items]
    size = run.optimiser.batch_size, run.optimiser.microbatch
    batches = FeatureBatches(clip_ids, targets, run.seed, *size)
    return Job(task, batches, facts, classes)


def _place(model: CLIP4VLA, run: Pretrain | Finetune, around: Surroundings) -> None:
    """Put the model, in the precision that the run trains it in, on the device."""
    if run.optimiser.precision == "half_weights":
        halve(model)
    model.to(around.device)


def _splits(run: Finetune, around: Surroundings):
    """The training cache, the rows of train, and what is scored after each epoch.

    That is a source, the policy for its silent clips, and its rows; None where nothing is scored.
    """
    cache = around.caches[run.train]
    if run.selection == "best_val" and run.val is None:
        raise UserError("selection: best_val needs a val split; name one or say `last`")
    held_out = None
    if run.selected_on is not None:
        source, policy = run.selected_on
        held_out = source, policy, split_rows(around.caches[source], source)
    return cache, split_rows(cache, run.train), held_out


def _samples(
    run: Finetune, around: Surroundings, source: Source, policy: AudioPolicy, items
) -> ClipSamples:
    """Samples of a source under a policy for silent clips."""
    tables = {DONORS_BY[policy]: around.substitution} if policy in DONORS_BY else {}
    donors = read_donors(tables, policy)
    given = run.inputs, run.modalities, policy, donors, None, run.seed
    return samples_of(around.caches[source], items, source, *given)


def _held_out_facts(run: Finetune, around: Surroundings, samples: ClipSamples) -> dict:
    """What train.json says of the scored clips, under the name of what they are."""
    source, _ = run.selected_on
    found = _clip_facts(around.caches[source], source, samples)
    return {"val": found} if run.test is None else {"test": found}


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

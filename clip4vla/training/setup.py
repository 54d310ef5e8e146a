"""Set up a run: build its task, its batches and its validation from its config and data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from clip4vla.cache.clips import ClipCache
from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.errors import UserError
from clip4vla.common.log import log
from clip4vla.config.data import DONORS_BY, AudioPolicy
from clip4vla.config.run import Finetune, Pretrain, Source
from clip4vla.config.sections import LABEL_TASKS, Augment, Modality
from clip4vla.inference.features import ClipFeatures
from clip4vla.inference.frozen import frozen_samples
from clip4vla.inference.probe import probe_batch
from clip4vla.inference.probe_features import probe_features
from clip4vla.loading.augmented import AugmentedSamples
from clip4vla.loading.batches import ClipBatches, FeatureBatches, Samples
from clip4vla.loading.frozen import FrozenSamples
from clip4vla.loading.loader import (
    Caches,
    Part,
    clip_items,
    pair_items,
    read_donors,
    samples_of,
    several_labels,
    single_labels,
    split_rows,
)
from clip4vla.loading.processor import Processor
from clip4vla.loading.samples import ClipSamples, Item
from clip4vla.loading.sampling import balancing_weights
from clip4vla.loading.targets import ClassTargets
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.parts import freezes_text_and_vision
from clip4vla.models.common.task import Task
from clip4vla.models.family import family_of
from clip4vla.training.loop import Batches
from clip4vla.training.ranks import Ranks
from clip4vla.training.switches import Switches
from clip4vla.training.validation import (
    CaptionValidation,
    ClipsToScore,
    LabelValidation,
    NoValidation,
    RetrievalValidation,
    Validation,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class External:
    """External inputs of a run: data, initial weights, donors, and the hardware."""

    caches: Caches
    initial_weights: Path | None
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
    """A task, its batches and its validation. facts: counts of the data, for train.json."""

    task: Task
    batches: Batches
    facts: dict[str, Any]
    validation: Validation = field(default_factory=NoValidation)
    classes: list[str] | None = None


def set_up(run: Pretrain | Finetune, external: External) -> Job:
    """Read the splits and build the model. Raises UserError for unusable data."""
    if isinstance(run, Pretrain):
        job = _pretraining(run, external)
    elif run.task in LABEL_TASKS:
        job = _label_task(run, external)
    else:
        job = _text_task(run, external)
    assert isinstance(job.task.model, ClipModel)
    external.switches.apply(job.task.model, external.device)
    return job


def _pretraining(run: Pretrain, external: External) -> Job:
    """Set up pre-training, on clips with sound only: a silent one has nothing to contrast."""
    model = _model(run, external)
    modalities: list[Modality] = ["vision", "audio"] if run.objective.inter else ["audio"]
    sources: list[ClipSamples | FrozenSamples] = []
    facts, leaks = [], external.caches.leaks
    for source in run.sources:
        cache = external.caches[source]
        rows = split_rows(cache, source)
        planned = len(rows)
        if leaks:
            rows = rows[~rows.clip_id.isin(leaks.clips[source.dataset])]
            if rows.empty:
                raise UserError(
                    f"{_where(source)}: every clip is of a video in `held_out`, and pretrain.leaks "
                    "is drop. Fix: correct datasets.NAME.held_out"
                )
        samples = samples_of(
            cache,
            pair_items(rows, _where(source)),
            source,
            run.inputs,
            modalities,
            policy="filter",
            masking=run.masking if run.objective.intra else None,
            seed=run.seed,
        )
        facts.append(_clip_facts(cache, source, samples))
        if leaks:
            facts[-1]["leaks_dropped"] = planned - len(rows)
        if external.switches.frozen_cache and freezes_text_and_vision(model, modalities):
            sources.append(frozen_samples(model, samples, external.device, external.workers))
        else:
            sources.append(samples)
    data = {"train": facts, "val": None} | ({"leaks": leaks.facts} if leaks else {})
    task = family_of(run.model.family).task(model, run)
    batches = _clip_batches(run, sources, external, model.processor)
    return Job(task=task, batches=batches, facts=data)


def _text_task(run: Finetune, external: External) -> Job:
    """Set up retrieval or captioning: every (clip, caption) pair of train is a sample."""
    model = _model(run, external)
    cache, rows, held_out = _splits(run, external)
    items = pair_items(rows, _where(run.train))
    samples = _samples(run, external, run.train, run.missing_audio, items)
    facts: dict[str, Any] = {"train": [_clip_facts(cache, run.train, samples)], "val": None}
    validation: Validation = NoValidation()
    if held_out is not None:
        pairs = pair_items(held_out.rows, _where(held_out.source))
        scored = _samples(
            run, external, held_out.source, held_out.policy, clip_items(held_out.rows)
        )
        clips = _to_score(scored, external)
        if run.task == "captioning":
            ids, captions = held_out.rows.clip_id, map(list, held_out.rows.captions)
            references = dict(zip(ids, captions, strict=True))
            validation = CaptionValidation(model=model, run=run, clips=clips, references=references)
        else:
            validation = RetrievalValidation(model=model, run=run, clips=clips, pairs=pairs)
        facts |= _held_out_facts(run, external, held_out.source, scored)
    return Job(
        task=family_of(run.model.family).task(model, run),
        batches=_clip_batches(run, [samples], external, model.processor),
        facts=facts,
        validation=validation,
    )


def _label_task(run: Finetune, external: External) -> Job:
    """Set up a classification or tagging. Features of frozen towers are computed once, here."""
    cache, rows, held_out = _splits(run, external)
    items = clip_items(rows)
    classes = sorted({label for clip in _labels(run, items, run.train) for label in clip})
    if external.ranks.leads:
        log.info(f"{_where(run.train)}: {len(classes)} classes")
    model = _model(run, external, n_classes=len(classes))
    embed = partial(
        probe_features,
        model,
        modalities=run.modalities,
        device=external.device,
        workers=external.workers,
        keep=external.switches.frozen_cache,
    )
    samples = _samples(run, external, run.train, run.missing_audio, items)
    facts: dict[str, Any] = {"train": [_clip_facts(cache, run.train, samples)], "val": None}
    validation: Validation = NoValidation()
    if held_out is not None:
        scored = _samples(
            run, external, held_out.source, held_out.policy, clip_items(held_out.rows)
        )
        validation = LabelValidation(
            model=model,
            run=run,
            clips=_to_score(scored, external),
            classes=classes,
            labels=_labels(run, scored.items, held_out.source),
            features=embed(scored) if run.trains_probe_only else None,
        )
        facts |= _held_out_facts(run, external, held_out.source, scored)
    targets = ClassTargets(classes, run.learns_shares, run.label_smoothing)
    return Job(
        task=family_of(run.model.family).task(model, run),
        batches=(
            _feature_batches(run, samples, embed(samples), targets)
            if run.trains_probe_only
            else _clip_batches(
                run,
                [samples if run.augment == Augment() else AugmentedSamples(samples, run.augment)],
                external,
                model.processor,
                targets_of=targets.of_batch,
                weights=_weights(run, samples),
            )
        ),
        facts=facts,
        validation=validation,
        classes=classes,
    )


def _labels(run: Finetune, items: list[Item], source: Source) -> list[tuple[str, ...]]:
    """Return the labels of items. UserError for a clip without one, or with too many."""
    if run.task == "tagging":
        return several_labels(items, _where(source))
    return [(label,) for label in single_labels(items, _where(source))]


def _weights(run: Finetune, samples: ClipSamples) -> np.ndarray | None:
    """Return the weights by which clips are drawn; None: each once."""
    if run.sampling == "uniform":
        return None
    return balancing_weights([labels for _, _, labels in samples.items])


def _model(run: Pretrain | Finetune, external: External, n_classes: int | None = None) -> ClipModel:
    """Build the run's model on its device, with its initial weights, ready to be trained."""
    model = initial_model(
        run.model,
        run.inputs,
        external.initial_weights,
        external.weights,
        task=run.task if isinstance(run, Finetune) else None,
        n_classes=n_classes,
        seed=run.seed,
    )
    family_of(run.model.family).prepare(model, run)
    return model.to(external.device)


class HeldOut(NamedTuple):
    """The clips that are scored after each epoch, and the policy for silent ones among them."""

    source: Source
    policy: AudioPolicy
    rows: "pd.DataFrame"


def _splits(run: Finetune, external: External) -> tuple[ClipCache, "pd.DataFrame", HeldOut | None]:
    """Return the training cache, the rows of train, and the clips to score; None: no clips."""
    cache = external.caches[run.train]
    if run.selection == "best_val" and run.val is None:
        raise UserError(
            "selection: best_val needs a val split. Fix: name one, or set selection: last"
        )
    held_out = None
    if run.selected_on is not None:
        source, policy = run.selected_on
        held_out = HeldOut(source, policy, split_rows(external.caches[source], source))
    return cache, split_rows(cache, run.train), held_out


def _samples(
    run: Finetune, external: External, source: Source, policy: AudioPolicy, items: list[Item]
) -> ClipSamples:
    """Return samples of a source under a policy for silent clips."""
    tables = {DONORS_BY[policy]: external.substitution} if policy in DONORS_BY else {}
    return samples_of(
        external.caches[source],
        items,
        source,
        run.inputs,
        run.modalities,
        policy=policy,
        donors=read_donors(tables, policy),
        seed=run.seed,
    )


def _to_score(samples: ClipSamples, external: External) -> ClipsToScore:
    return ClipsToScore(
        samples=samples, device=external.device, workers=external.workers, part=external.part
    )


def _held_out_facts(
    run: Finetune, external: External, source: Source, samples: ClipSamples
) -> dict[str, Any]:
    """Return the counts of the scored clips, under the name of their split."""
    facts = _clip_facts(external.caches[source], source, samples)
    return {"val": facts} if run.test is None else {"test": facts}


def _feature_batches(
    run: Finetune, samples: ClipSamples, features: ClipFeatures, targets: ClassTargets
) -> FeatureBatches:
    labels = [labels for _, _, labels in samples.items]

    def batch_of(index: torch.Tensor) -> dict[str, Any]:
        own = targets([labels[i] for i in index.tolist()])
        return {**probe_batch(features, index), "target": own}

    return FeatureBatches(
        clip_ids=[clip_id for clip_id, _, _ in samples.items],
        batch_of=batch_of,
        seed=run.seed,
        batch_size=run.optimiser.batch_size,
        microbatch=run.optimiser.microbatch,
        weights=_weights(run, samples),
    )


def _clip_batches(
    run: Pretrain | Finetune,
    sources: Sequence[Samples],
    external: External,
    processor: Processor,
    targets_of: Callable[[dict], torch.Tensor] | None = None,
    weights: np.ndarray | None = None,
) -> ClipBatches:
    return ClipBatches(
        sources,
        seed=run.seed,
        batch_size=run.optimiser.batch_size,
        workers=external.workers,
        device=external.device,
        microbatch=run.optimiser.microbatch,
        rank=external.ranks.rank,
        world=external.ranks.world,
        processor=processor,
        targets_of=targets_of,
        weights=weights,
    )


def _where(source: Source) -> str:
    return f"{source.dataset}, split {source.split}"


def _clip_facts(cache: ClipCache, source: Source, samples: ClipSamples) -> dict[str, Any]:
    """Count the clips of a split, and its silent clips by the audio that they get."""
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

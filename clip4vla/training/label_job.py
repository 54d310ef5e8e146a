"""Set up classification and tagging: tasks of the labels of clips."""

from functools import partial
from typing import Any

import numpy as np
import torch

from clip4vla.common.errors import UserError
from clip4vla.common.log import log
from clip4vla.config.run import Finetune, Source
from clip4vla.config.sections import Augment
from clip4vla.inference.features import ClipFeatures
from clip4vla.inference.probe import probe_batch
from clip4vla.inference.probe_features import probe_features
from clip4vla.loading.augmented import AugmentedSamples
from clip4vla.loading.batches import FeatureBatches
from clip4vla.loading.labels import several_labels, single_labels
from clip4vla.loading.loader import clip_items
from clip4vla.loading.samples import ClipSamples, Item
from clip4vla.loading.sampling import balancing_weights
from clip4vla.loading.targets import ClassTargets
from clip4vla.models.family import family_of
from clip4vla.training.job import (
    External,
    Job,
    clip_batches,
    clip_facts,
    held_out_facts,
    samples_under,
    splits_of,
    to_score,
    trained_model,
    where,
)
from clip4vla.training.validation import LabelValidation, NoValidation, Validation


def label_job(run: Finetune, external: External) -> Job:
    """Set up a classification or tagging. Features of frozen towers are computed once, here."""
    cache, rows, held_out = splits_of(run, external)
    items = clip_items(rows)
    classes = sorted({label for clip in _labels(run, items, run.train) for label in clip})
    if run.task == "classification" and len(classes) < 2:
        raise UserError(
            f"{where(run.train)}: all clips have the label {classes[0]!r}, so there is nothing to "
            "tell apart. Fix: train on a split with two classes or more"
        )
    if external.ranks.leads:
        log.info(f"{where(run.train)}: {len(classes)} classes")
    model = trained_model(run, external, n_classes=len(classes))
    embed = partial(
        probe_features,
        model,
        modalities=run.modalities,
        device=external.device,
        workers=external.workers,
        keep=external.switches.frozen_cache,
    )
    learns = not run.trains_probe_only
    samples = samples_under(run, external, run.train, run.missing_audio, items, training=learns)
    facts: dict[str, Any] = {"train": [clip_facts(cache, run.train, samples)], "val": None}
    validation: Validation = NoValidation()
    if held_out is not None:
        scored = samples_under(
            run, external, held_out.source, held_out.policy, clip_items(held_out.rows)
        )
        validation = LabelValidation(
            model=model,
            run=run,
            clips=to_score(scored, external),
            classes=classes,
            labels=_labels(run, scored.items, held_out.source),
            features=embed(scored) if run.trains_probe_only else None,
        )
        facts |= held_out_facts(run, external, held_out.source, scored)
    targets = ClassTargets(classes, run.learns_shares, run.label_smoothing)
    return Job(
        task=family_of(run.model.family).task(model, run),
        batches=(
            _feature_batches(run, samples, embed(samples), targets)
            if run.trains_probe_only
            else clip_batches(
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
        return several_labels(items, where(source))
    return [(label,) for label in single_labels(items, where(source))]


def _weights(run: Finetune, samples: ClipSamples) -> np.ndarray | None:
    """Return the weights by which clips are drawn; None: each once."""
    if run.sampling == "uniform":
        return None
    return balancing_weights([labels for _, _, labels in samples.items])


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

"""Set up a run: build its task, its batches and its validation from its config and data."""

from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.extras import require
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.sections import LABEL_TASKS
from clip4vla.inference.frozen import frozen_samples
from clip4vla.loading.frozen import FrozenSamples
from clip4vla.loading.loader import clip_items, pair_items, samples_of, split_rows
from clip4vla.loading.samples import ClipSamples
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.parts import freezes_text_and_vision
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
from clip4vla.training.label_job import label_job
from clip4vla.training.validation import (
    CaptionValidation,
    NoValidation,
    RetrievalValidation,
    Validation,
)


def set_up(run: Pretrain | Finetune, external: External) -> Job:
    """Read the splits and build the model. Raises UserError for unusable data."""
    if isinstance(run, Pretrain):
        job = _pretraining(run, external)
    elif run.task in LABEL_TASKS:
        job = label_job(run, external)
    else:
        job = _text_task(run, external)
    assert isinstance(job.task.model, ClipModel)
    external.switches.apply(job.task.model, external.device)
    return job


def _pretraining(run: Pretrain, external: External) -> Job:
    """Set up pre-training, on clips with sound only: a silent one has nothing to contrast."""
    model = trained_model(run, external)
    modalities = run.objective.modalities
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
                    f"{where(source)}: every clip is of a video in `held_out`, and pretrain.leaks "
                    "is drop. Fix: correct datasets.NAME.held_out"
                )
        samples = samples_of(
            cache,
            pair_items(rows, where(source)),
            source,
            run.inputs,
            modalities,
            policy="filter",
            masking=run.masking if run.objective.masks_audio else None,
            seed=run.seed,
            training=True,
        )
        facts.append(clip_facts(cache, source, samples))
        if leaks:
            facts[-1]["leaks_dropped"] = planned - len(rows)
        keeps = external.switches.frozen_cache and run.inputs.train_frames is None
        if keeps and freezes_text_and_vision(model, modalities):
            sources.append(frozen_samples(model, samples, external.device, external.workers))
        else:
            sources.append(samples)
    data = {"train": facts, "val": None} | ({"leaks": leaks.facts} if leaks else {})
    task = family_of(run.model.family).task(model, run)
    batches = clip_batches(run, sources, external, model.processor)
    return Job(task=task, batches=batches, facts=data)


def _text_task(run: Finetune, external: External) -> Job:
    """Set up retrieval or captioning: every (clip, caption) pair of train is a sample."""
    model = trained_model(run, external)
    cache, rows, held_out = splits_of(run, external)
    items = pair_items(rows, where(run.train))
    samples = samples_under(run, external, run.train, run.missing_audio, items, training=True)
    facts: dict[str, Any] = {"train": [clip_facts(cache, run.train, samples)], "val": None}
    validation: Validation = NoValidation()
    if held_out is not None:
        pairs = pair_items(held_out.rows, where(held_out.source))
        scored = samples_under(
            run, external, held_out.source, held_out.policy, clip_items(held_out.rows)
        )
        clips = to_score(scored, external)
        if run.task == "captioning":
            require("captions", "validation of captions")
            ids, captions = held_out.rows.clip_id, map(list, held_out.rows.captions)
            references = dict(zip(ids, captions, strict=True))
            validation = CaptionValidation(model=model, run=run, clips=clips, references=references)
        else:
            validation = RetrievalValidation(model=model, run=run, clips=clips, pairs=pairs)
        facts |= held_out_facts(run, external, held_out.source, scored)
    return Job(
        task=family_of(run.model.family).task(model, run),
        batches=clip_batches(run, [samples], external, model.processor),
        facts=facts,
        validation=validation,
    )

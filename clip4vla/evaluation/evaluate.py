"""Score one checkpoint on one split: metrics.json with its N and hashes, predictions.parquet."""

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clip4vla.checkpoints.initial_weights import (
    initial_model,
    initial_weights_hash,
    initial_weights_metadata,
)
from clip4vla.common.device import take
from clip4vla.common.errors import UserError
from clip4vla.common.files import write_json, write_parquet
from clip4vla.common.hardware import INLINE, ReadingHardware
from clip4vla.config.data import reads_test_captions
from clip4vla.config.run import Evaluate
from clip4vla.config.sections import LABEL_TASKS
from clip4vla.config.variant import Variant
from clip4vla.datasets import Benchmark
from clip4vla.evaluation.across import score_across
from clip4vla.evaluation.classes import score_classes, score_tags
from clip4vla.evaluation.scoring import ScoreCaptions, Scored, Scoring
from clip4vla.evaluation.texts import score_texts
from clip4vla.evaluation.variants import Beside, in_turn, scoring_of
from clip4vla.inference.audio_controls import given_sounds
from clip4vla.inference.captioning import generate
from clip4vla.inference.feature_cache import SharedFeatures
from clip4vla.loading.loader import (
    Caches,
    DonorTables,
    Manifests,
    clip_items,
    pair_items,
    read_donors,
    samples_of,
    split_rows,
)
from clip4vla.metrics.intervals import INTERVAL_RULE
from clip4vla.metrics.recalls import TIE_RULE


def evaluate(
    run: Evaluate,
    manifests: Manifests,
    start: Path | None,
    weights: dict[str, Path],
    substitution: Path | None,
    out: Path,
    run_key: str,
    expected: int | None = None,
    hardware: ReadingHardware = INLINE,
    benchmark: Benchmark | None = None,
    frozen_cache: bool = True,
    text_substitution: Path | None = None,
    made_with: dict[str, Any] | None = None,
    seen: Collection[str] | None = None,
    videos: Mapping[str, str] | None = None,
) -> None:
    """Write out/predictions.parquet and, last, out/metrics.json.

    `expected`: clips of the split in the official lists; `benchmark`: the protocol it stands for
    (None: the split itself). Two galleries are scored and never mixed:
    `all` usable clips, silent ones under `run.missing_audio`, and those `with_sound` of their own.
    Policy `filter` has the latter only. `run.variants` are scored beside it, on features that are
    made once (`clip4vla.evaluation.variants`). frozen_cache: features of towers that a probe left
    frozen are kept on disk.
    substitution, text_substitution: donors by frames, and by captions for `released_links`.
    made_with: what metrics.json says of the model's making (`clip4vla.stages.lineage`).
    seen: clips whose videos pre-training has read; None: unknown, or there was none.
    videos: the video that each clip is cut from, to count clips of a gallery that share one.

    UserError, with the remedy, when a split has no usable clip, a clip no caption, a silent one no
    donor where the policy needs it, or the file of a probe names no classes; with the name of the
    clip, when a feature or a similarity is not finite.
    """
    (device, workers), caches = take(hardware), Caches(manifests)
    cache = caches[run.test]
    rows = split_rows(cache, run.test)
    tables: DonorTables = {"vision": substitution, "text": text_substitution}
    donors = read_donors(tables, run.missing_audio)
    samples = samples_of(
        cache,
        clip_items(rows),
        run.test,
        run.inputs,
        modalities=run.modalities,
        policy=run.missing_audio,
        donors=donors,
    )
    sounding = np.array([clip_id not in cache.silent for clip_id, _, _ in samples.items])
    galleries = {"with_sound": sounding}
    if run.missing_audio != "filter":
        galleries["all"] = np.ones(len(samples), dtype=bool)

    trained = initial_weights_metadata(start)
    run = run.model_copy(update={"scale": _scale(run, trained, start)})
    classes, task = trained.get("classes"), None if run.class_names else run.task
    if run.class_names:
        classes = sorted({label for labels in cache.splits["labels"] for label in labels})
        if not classes:
            raise UserError(
                f"{run.test.dataset}: no clip has a label, so there is no class to compare with. "
                f"Fix: choose another dataset for task: {run.task}"
            )
    if run.task in LABEL_TASKS and not classes:
        raise UserError(
            f"{start}: its metadata names no classes. Fix: evaluate weights of a {run.task} run"
        )
    model = initial_model(
        run.model,
        run.inputs,
        start,
        weights,
        task,
        n_classes=len(classes) if task and classes else None,
        trained_head=task is not None,
    ).to(device)
    benchmark = benchmark or Benchmark(run.test.split)
    sounds = given_sounds([clip_id for clip_id, _, _ in samples.items], cache.silent, donors)
    scoring = Scoring(
        run=run,
        model=model,
        samples=samples,
        rows=rows,
        galleries=galleries,
        sounds=sounds,
        device=device,
        workers=workers,
        names=run.modalities,
        benchmark=benchmark.name,
        frozen_cache=frozen_cache and trained.get("trainable") != "all",
        videos=videos,
    )
    with _caption_scorer(scoring) as scoring.score_captions:
        if not run.variants:
            own, variants = _scored(scoring, classes), None
        else:
            shared = SharedFeatures(model, samples, device, workers)
            scoring = scoring_of(scoring, Variant(), shared, tables)
            own = _scored(scoring, classes)
            variants = Beside(scoring, own)
            for variant in in_turn(run):
                other = scoring_of(scoring, variant, shared, tables)
                variants.add(variant, other, _scored(other, classes))
    main, predictions = scoring.main, scoring.with_origins(own.predictions)
    if variants:
        predictions = variants.predictions(predictions)
    write_parquet(out / "predictions.parquet", predictions)
    counts = cache.manifest["splits"][run.test.split]
    scored = scoring.clip_ids[galleries[main]].tolist()
    summary = {
        "run_key": run_key,
        "task": run.task,
        "modalities": list(run.modalities),
        "query": run.query if run.task == "retrieval" else None,
        "dataset": run.test.dataset.rsplit("-", 2)[0],
        "data_version": run.test.dataset,
        "manifest_sha256": cache.manifest_sha256,
        "split": run.test.split,
        "protocol": scoring.protocol(main),
        "gallery": main,
        "missing_audio": run.missing_audio,
        "reads_test_captions": reads_test_captions(run.missing_audio),
        "selection": trained.get("selection"),
        "half_weights": trained.get("half_weights"),
        "leaks_dropped": trained.get("leaks_dropped"),
        "leaks_kept": None if seen is None else sum(clip in seen for clip in scored),
        "small_batches": trained.get("small_batches"),
        "tie_rule": TIE_RULE if run.task == "retrieval" else None,
        "interval_rule": INTERVAL_RULE,
        "coverage": {
            "expected": expected,
            **{name: counts[name] for name in ("planned", "usable", "silent")},
            "scored": len(scored),
            "captions_per_clip": benchmark.captions,
        },
        "galleries": scoring.described(own),
        "checkpoint": {"run_key": run.start, "sha256": initial_weights_hash(start)},
        "made_with": made_with,
    }
    if run.rescore:
        summary["rescored"] = run.rescore
    if own.classes:
        summary["classes"] = own.classes
    if variants:
        summary["variants"] = variants.described
    write_json(out / "metrics.json", summary)


def _scale(run: Evaluate, trained: dict, start: Path | None) -> float:
    """1 / temperature: what the start was trained with, which may be learnt, or the run's own."""
    scale = trained.get("scale", run.scale)
    if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise UserError(
            f"{start}: its metadata has scale {scale!r}, which is not a positive number. Fix: "
            "import the weights again, or train them"
        )
    return float(scale)


def _scored(scoring: Scoring, classes: list[str] | None) -> Scored:
    match scoring.run.task:
        case "retrieval":
            return score_texts(scoring) if scoring.run.query == "text" else score_across(scoring)
        case "captioning":
            return _captioning(scoring)
        case "classification":
            assert classes is not None, "checked before the model is built"
            return score_classes(scoring, classes)
        case "tagging":
            assert classes is not None, "checked before the model is built"
            return score_tags(scoring, classes)


@contextlib.contextmanager
def _caption_scorer(scoring: Scoring) -> Iterator[ScoreCaptions | None]:
    """For captioning, `caption_scorer` of the scored clips; for other tasks nothing."""
    if scoring.run.task != "captioning":
        yield None
        return
    from clip4vla.metrics.captions import caption_scorer  # of the extra `captions`

    ids = set(scoring.clip_ids)
    pair_items(scoring.rows, scoring.where)  # each has a reference
    references = {
        clip_id: list(captions)
        for clip_id, captions in zip(scoring.rows.clip_id, scoring.rows.captions, strict=True)
    }
    every = scoring.rows if scoring.run.variants else scoring.rows[scoring.rows.clip_id.isin(ids)]
    with caption_scorer({clip_id: references[clip_id] for clip_id in every.clip_id}) as score:
        yield score


def _captioning(scoring: Scoring) -> Scored:
    """Predictions: clip_id, hypothesis, references, CIDEr (x 100) in the main gallery."""
    ids, run = scoring.clip_ids, scoring.run
    hypotheses = generate(
        scoring.model,
        scoring.samples,
        run.modalities,
        scoring.device,
        scoring.workers,
        decoding=run.decoding,
    )
    groups = {name: ids[kept].tolist() for name, kept in scoring.galleries.items()}
    assert scoring.score_captions is not None
    found = scoring.score_captions(hypotheses, groups)
    rows = scoring.rows.set_index("clip_id").captions
    predictions = pd.DataFrame(
        {
            "clip_id": list(hypotheses),
            "hypothesis": list(hypotheses.values()),
            "references": [list(rows[clip_id]) for clip_id in hypotheses],
            "CIDEr": [found.cider[scoring.main].get(clip_id) for clip_id in hypotheses],
        }
    )
    queries = {name: len(clips) for name, clips in groups.items()}
    each = {name: pd.Series(values, dtype=float) for name, values in found.cider.items()}
    return Scored(found.stated(), queries, predictions, each)

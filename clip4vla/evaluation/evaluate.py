"""Score one checkpoint on one split: metrics.json with its N and hashes, predictions.parquet."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clip4vla.config.run import Evaluate
from clip4vla.datasets import Benchmark
from clip4vla.errors import UserError
from clip4vla.evaluation.caption_intervals import caption_intervals
from clip4vla.evaluation.caption_metrics import score_captions, tokenise
from clip4vla.evaluation.captioning import generate
from clip4vla.evaluation.classification import predict, report_accuracy
from clip4vla.evaluation.device import pick_device, set_threads
from clip4vla.evaluation.features import embed_clips
from clip4vla.evaluation.intervals import INTERVAL_RULE
from clip4vla.evaluation.reading import (
    Caches,
    Manifests,
    clip_items,
    origins,
    pair_items,
    read_donors,
    samples_of,
    split_rows,
)
from clip4vla.evaluation.recalls import TIE_RULE
from clip4vla.evaluation.similarity import Gallery
from clip4vla.evaluation.start import start_hash, start_metadata, starting_model
from clip4vla.evaluation.text_clip import among, captions_of, rank_columns, report_retrieval
from clip4vla.features.samples import ClipSamples
from clip4vla.files import sha256_of_ids, write_json, write_parquet
from clip4vla.models.clip4vla import CLIP4VLA
from clip4vla.models.decoding import Decoding
from clip4vla.models.pooling import masked_mean


@dataclass
class Scoring:
    """What the scorers of the three tasks need. `galleries`: bool [N] of the clips of each one."""

    run: Evaluate
    model: CLIP4VLA
    samples: ClipSamples
    rows: pd.DataFrame
    galleries: dict[str, np.ndarray]
    device: torch.device
    workers: int

    @property
    def clip_ids(self) -> np.ndarray:
        """The scored clips [N]."""
        return np.array([clip_id for clip_id, _, _ in self.samples.items])


def evaluate(
    run: Evaluate,
    manifests: Manifests,
    start: Path | None,
    weights: dict[str, Path],
    substitution: Path | None,
    out: Path,
    run_key: str,
    expected: int | None = None,
    workers: int = 1,
    benchmark: Benchmark | None = None,
) -> None:
    """Write out/predictions.parquet and, last, out/metrics.json.

    `expected`: clips of the split in the official lists; `benchmark`: the protocol it stands for
    (None: the split itself). Two galleries are scored and never mixed:
    `all` usable clips, silent ones under `run.missing_audio`, and those `with_sound` of their own.
    Policy `filter` has the latter only.
    """
    set_threads(workers)
    device, caches = pick_device(), Caches(manifests)
    cache = caches[run.test]
    rows = split_rows(cache, run.test)
    donors = read_donors(substitution, run.missing_audio)
    given = run.inputs, run.modalities, run.missing_audio, donors
    samples = samples_of(cache, clip_items(rows), run.test, *given)
    sounding = np.array([clip_id not in cache.silent for clip_id, _, _ in samples.items])
    galleries = {"with_sound": sounding}
    if run.missing_audio != "filter":
        galleries["all"] = np.ones(len(samples), dtype=bool)
    main = "all" if "all" in galleries else "with_sound"

    trained = start_metadata(start)
    classes = trained.get("classes")
    if run.task == "classification" and not classes:
        raise UserError(f"{start}: its metadata names no classes; evaluate a classification run")
    model = starting_model(
        run.model,
        run.inputs,
        start,
        weights,
        run.task,
        n_classes=len(classes) if classes else None,
        trained_head=True,
    ).to(device)
    scoring = Scoring(run, model, samples, rows, galleries, device, workers)
    match run.task:
        case "retrieval":
            stated, queries, predictions = _retrieval(scoring, main)
        case "captioning":
            stated, queries, predictions = _captioning(scoring)
        case "classification":
            stated, queries, predictions = _classification(scoring, classes)
    origin = dict(zip(scoring.clip_ids, origins(samples), strict=True))
    write_parquet(
        out / "predictions.parquet",
        predictions.assign(audio_origin=predictions.clip_id.map(origin)),
    )
    counts = cache.manifest["splits"][run.test.split]
    benchmark = benchmark or Benchmark(run.test.split)
    protocols = {"all": benchmark.name, "with_sound": f"{benchmark.name}-sound"}
    summary = {
        "run_key": run_key,
        "task": run.task,
        "modalities": list(run.modalities),
        "dataset": run.test.dataset.rsplit("-", 2)[0],
        "data_version": run.test.dataset,
        "manifest_sha256": cache.manifest_sha256,
        "split": run.test.split,
        "protocol": protocols[main],
        "gallery": main,
        "missing_audio": run.missing_audio,
        "selection": trained.get("selection"),
        "half_weights": trained.get("half_weights"),
        "leaks_dropped": trained.get("leaks_dropped"),
        "tie_rule": TIE_RULE if run.task == "retrieval" else None,
        "interval_rule": INTERVAL_RULE,
        "coverage": {
            "expected": expected,
            **{name: counts[name] for name in ("planned", "usable", "silent")},
            "scored": int(galleries[main].sum()),
            "captions_per_clip": benchmark.captions,
        },
        "galleries": {
            name: {
                "protocol": protocols[name],
                "n_queries": queries[name],
                "n_gallery": int(kept.sum()),
                "ids_sha256": sha256_of_ids(scoring.clip_ids[kept].tolist()),
                **stated[name],
            }
            for name, kept in galleries.items()
        },
        "checkpoint": {"run_key": run.start, "sha256": start_hash(start)},
    }
    write_json(out / "metrics.json", summary)


# Of each gallery: what metrics.json states, and its number of queries; then the predictions.
Scores = tuple[dict[str, dict[str, dict]], dict[str, int], pd.DataFrame]


def _retrieval(scoring: Scoring, main: str) -> Scores:
    """Predictions: query, caption, clip_id, its ranks, top5, all in the main gallery."""
    run = scoring.run
    pairs = pair_items(scoring.rows, f"{run.test.dataset}, split {run.test.split}")
    given = scoring.model, scoring.samples, run, run.scale, scoring.device, scoring.workers
    gallery = Gallery(*given)
    captions, targets = captions_of(pairs, gallery.clip_ids)
    heads = gallery.views(captions)
    stated, queries, predictions = {}, {}, pd.DataFrame()
    for name, kept in scoring.galleries.items():
        some = {head: among(kept, x, targets, gallery.clip_ids) for head, x in heads.items()}
        _, some_targets, some_ids = next(iter(some.values()))
        queries[name], stated[name] = len(some_targets), {"metrics": {}}
        if not kept.any():
            continue
        blocks = {head: part for head, (part, _, _) in some.items()}
        found = report_retrieval(blocks, some_targets, some_ids, run.modalities)
        stated[name] = found.stated
        if name == main:
            ids = np.array(some_ids)
            predictions = pd.DataFrame(
                {
                    "query": np.arange(len(some_targets)),
                    "caption": np.array(captions)[kept[targets]],
                    "clip_id": ids[some_targets],
                    **rank_columns(found, some_targets),
                    "top5": [row.tolist() for row in ids[found.best]],
                }
            )
    return stated, queries, predictions


def _captioning(scoring: Scoring) -> Scores:
    """Predictions: clip_id, hypothesis, references."""
    ids, run = scoring.clip_ids, scoring.run
    references = {
        clip_id: list(captions)
        for clip_id, captions in zip(scoring.rows.clip_id, scoring.rows.captions, strict=True)
    }
    pair_items(scoring.rows, f"{run.test.dataset}, split {run.test.split}")  # each has a reference
    given = scoring.model, scoring.samples, run.modalities, scoring.device, scoring.workers
    hypotheses = generate(*given, Decoding(**run.decoding.model_dump()))
    references = {clip_id: references[clip_id] for clip_id in hypotheses}
    groups = {name: ids[kept].tolist() for name, kept in scoring.galleries.items()}
    metrics = score_captions(hypotheses, references, groups)
    tokens = tokenise({clip: [said, *references[clip]] for clip, said in hypotheses.items()})
    stated = {name: {"metrics": found} for name, found in metrics.items()}
    for name, clips in groups.items():
        if clips:
            parts = {c: tokens[c][1:] for c in clips}, {c: tokens[c][:1] for c in clips}
            stated[name]["intervals"] = caption_intervals(*parts)
    predictions = pd.DataFrame(
        {
            "clip_id": list(hypotheses),
            "hypothesis": list(hypotheses.values()),
            "references": list(references.values()),
        }
    )
    return stated, {name: len(clips) for name, clips in groups.items()}, predictions


def _classification(scoring: Scoring, classes: list[str]) -> Scores:
    """Predictions: clip_id, label, predicted."""
    run, device = scoring.run, scoring.device
    given = scoring.model, scoring.samples, run.modalities, device, scoring.workers
    features = embed_clips(*given, reduce=masked_mean)
    predicted = np.array(predict(scoring.model.probe, features, classes, device))
    labels = np.array([label for _, _, label in scoring.samples.items])
    stated = {
        name: report_accuracy(labels[kept], predicted[kept]) if kept.any() else {"metrics": {}}
        for name, kept in scoring.galleries.items()
    }
    queries = {name: int(kept.sum()) for name, kept in scoring.galleries.items()}
    given = {"clip_id": scoring.clip_ids, "label": labels, "predicted": predicted}
    return stated, queries, pd.DataFrame(given)

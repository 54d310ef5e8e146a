"""Variants of an evaluation: the same checkpoint and clips under other sounds, side by side."""

from dataclasses import replace

import numpy as np
import pandas as pd

from clip4vla.config.data import reads_test_captions
from clip4vla.config.metrics import CONFUSION, SCORES, score_name
from clip4vla.config.run import Evaluate
from clip4vla.config.variant import Variant
from clip4vla.evaluation.scoring import Scored, Scoring
from clip4vla.inference.audio_controls import controlled, given_sounds
from clip4vla.inference.feature_cache import FeatureSamples, SharedFeatures
from clip4vla.inference.sounded_samples import SoundedSamples, sounded_samples
from clip4vla.loading.loader import DonorTables, clip_items, read_donors, samples_of
from clip4vla.metrics.gain import confusion, gain_examples, gain_metrics, gain_of

SHOWN = {  # of a variant's predictions, what stands beside those of the evaluation itself
    "retrieval": ("top5",),
    "captioning": ("hypothesis",),
    "classification": ("predicted",),
    "tagging": ("top5",),
}


def in_turn(run: Evaluate) -> list[Variant]:
    """The variants with each type token together, the evaluation's own first."""
    own = run.test.nonverbal_share

    def token(variant: Variant) -> tuple[bool, float]:
        share = own if variant.nonverbal_share is None else variant.nonverbal_share
        return share != own, share

    return sorted(run.variants, key=token)


def scoring_of(
    base: Scoring, variant: Variant, shared: SharedFeatures, tables: DonorTables
) -> Scoring:
    """The scoring of a variant, of features that are made once for all of them if they can be.

    Clips are those of the evaluation's split: with a sound of their own alone where the variant
    leaves a silent clip with nothing to score.
    """
    run, cache = base.run, base.samples.cache
    # Probes and captioners that read both modalities at once have a stand-in for a missing one;
    # texts are compared with each modality in a way of its own.
    compares = run.task == "retrieval" or run.class_names
    hidden = not (variant.frames or compares or base.model.apart)
    policy = variant.missing_audio or run.missing_audio
    share = run.test.nonverbal_share if variant.nonverbal_share is None else variant.nonverbal_share
    modalities = [m for m in run.modalities if variant.frames or hidden or m != "vision"]
    galleries = variant.galleries(run.modalities, run.missing_audio)
    kept = policy if "all" in galleries else "filter"
    donors = read_donors(tables, policy)
    items = samples_of(
        cache,
        clip_items(base.rows),
        run.test,
        run.inputs,
        modalities=modalities,
        policy=kept,
        donors=donors,
    ).items
    sounds = given_sounds([clip for clip, _, _ in items], cache.silent, donors)
    sounds = controlled(sounds, variant.audio, base.rows, cache.clips)
    zeros = policy == "zeros" and variant.audio != "silent"
    sounding = np.array([clip not in cache.silent for clip, _, _ in items])
    bools = {"with_sound": sounding, "all": np.ones(len(items), dtype=bool)}
    changed = {"modalities": modalities, "missing_audio": policy}
    samples: FeatureSamples | SoundedSamples
    if base.model.apart:
        samples = shared.of(items, sounds, modalities, nonverbal_share=share, zeros=zeros)
    else:
        samples = sounded_samples(
            shared.samples,
            items,
            sounds,
            modalities,
            nonverbal_share=share,
            zeros=zeros,
            hidden=hidden,
        )
    return replace(
        base,
        run=run.model_copy(update=changed),
        samples=samples,
        galleries={name: bools[name] for name in ("with_sound", "all") if name in galleries},
        sounds=sounds,
    )


class Beside:
    """What metrics.json and predictions.parquet say of variants, with the evaluation's own."""

    def __init__(self, scoring: Scoring, own: Scored):
        self.scoring, self.own = scoring, own
        self.task = scoring.run.task
        self.score = SCORES[self.task]
        self.described: dict[str, dict] = {}
        self.columns: dict[str, pd.Series] = {}
        self._add("", scoring, own)

    def add(self, variant: Variant, scoring: Scoring, scored: Scored) -> None:
        """Take a variant in: its galleries, and what own sound is worth against it."""
        examples = self._add(f"/{variant.name}", scoring, scored)
        shown = scoring.with_origins(scored.predictions).set_index(self.key)
        for column in (*SHOWN[self.task], "sound_of"):
            self.columns[f"{column}/{variant.name}"] = shown[column]
        self.described[variant.name] = {
            **variant.model_dump(exclude={"missing_audio"}),
            "missing_audio": scoring.run.missing_audio,
            "reads_test_captions": reads_test_captions(scoring.run.missing_audio),
            "protocol": scoring.protocol(scoring.main),
            "gallery": scoring.main,
            "scored": int(scoring.galleries[scoring.main].sum()),
            "galleries": scoring.described(scored),
            "examples": examples,
        }

    @property
    def key(self) -> str:
        """The column of predictions that names a query."""
        return "query" if self.task == "retrieval" else "clip_id"

    def predictions(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Those of the evaluation, and beside them `rank/<gallery>/<variant>` and the like."""
        columns = {name: predictions[self.key].map(values) for name, values in self.columns.items()}
        return pd.concat([predictions, pd.DataFrame(columns)], axis=1)

    def _add(self, suffix: str, scoring: Scoring, scored: Scored) -> dict[str, dict]:
        """Note the scores of every query; add gains to the metrics of each gallery."""
        examples = {}
        for gallery, each in scored.each.items():
            if each.empty:
                continue
            self.columns[f"{self.score.name}/{gallery}{suffix}"] = each
            gain = gain_of(self.own.each[gallery], each, self.score)
            scored.stated[gallery]["metrics"] |= gain_metrics(
                gain, score_name(self.task, scoring.names, scoring.run.query)
            )
            if self.task == "tagging":
                own, other = (_first_is_right(of.predictions) for of in (self.own, scored))
                share = confusion(own[own.index.isin(each.index)], other)
                scored.stated[gallery]["metrics"][CONFUSION.name] = share
            examples[gallery] = gain_examples(gain)
        return examples


def _first_is_right(predictions: pd.DataFrame) -> pd.Series:
    """Return, by clip, whether the best of its classes is among its labels."""
    pairs = zip(predictions["labels"], predictions["top5"], strict=True)
    return pd.Series([top[0] in labels for labels, top in pairs], predictions.clip_id, dtype=bool)

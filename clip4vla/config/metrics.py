"""Names of an evaluation's metrics, which columns of tables can show."""

import re
from collections.abc import Sequence
from functools import cache
from typing import get_args

from clip4vla.config.sections import JOINT_FUSIONS, MIXING_FUSIONS, Fusion, Modality, Task

RANKS = ("R1", "R5", "R10", "R50", "MedR", "MeanR")
CAPTIONS = ("BLEU1", "BLEU2", "BLEU3", "BLEU4", "METEOR", "ROUGE_L", "CIDEr")
GAINS = ("gain", "helped", "hurt")  # per query, from a clip's own audio


def own_name(metric: str, modalities: Sequence[Modality]) -> str:
    """Return a retrieval metric as a row of these modalities names it: t2a_R1 for audio only."""
    letter = "a" if list(modalities) == ["audio"] else "v"
    metric = re.sub(r"(^|/)t2[av]_", rf"\g<1>t2{letter}_", metric)
    return re.sub(r"(^|/)[av]2t_", rf"\g<1>{letter}2t_", metric)


@cache
def every_metric() -> tuple[str, ...]:
    """Return the metrics of all tasks, including those of audio-only retrieval."""
    both = get_args(Modality)
    cases = [(task, both) for task in get_args(Task)] + [("retrieval", ("audio",))]
    return tuple(
        name
        for task, modalities in cases
        for name in metric_names(task, modalities, "global_to_global", frames=True, varied=True)
    )


def metric_names(
    task: Task, modalities: Sequence[Modality], fusion: Fusion, frames: bool, varied: bool
) -> list[str]:
    """Return every metric of an evaluation, or of a variant of it.

    frames: whether the variant has them; varied: whether the evaluation has variants, and with them
    the gain from a clip's own audio. Extras have their rule before a slash (docs/evaluation.md).
    """
    if task == "classification":
        return ["accuracy", *(f"right_{gain}" for gain in GAINS if varied)]
    if task == "captioning":
        scores = [f"{name}{tokens}" for tokens in ("", "_whitespace") for name in CAPTIONS]
        return [*scores, *(f"CIDEr_{gain}" for gain in GAINS if varied)]
    forward, backward = (own_name(name, modalities) for name in ("t2v_", "v2t_"))
    plain = [f"{way}{rank}" for way in (forward, backward) for rank in RANKS]
    extras = [f"{rule}/{name}" for rule in ("released", "dual_softmax") for name in plain]
    pooled = fusion not in JOINT_FUSIONS or fusion in MIXING_FUSIONS
    if pooled and len(modalities) == 2 and frames:
        extras += [f"reranked/{forward}{rank}" for rank in RANKS]
    return [*plain, *extras, *(f"{forward}rank_{gain}" for gain in GAINS if varied)]

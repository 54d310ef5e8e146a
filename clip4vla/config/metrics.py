"""The metrics of evaluations: names, labels, units, ranges and directions, in one table.

A full name is a row of the table with what it is counted by: a rule of ranking before a slash, the
direction of retrieval, the tokens of captions, as in `dual_softmax/t2v_R1` or `CIDEr_whitespace`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Literal, get_args

from clip4vla.common.errors import did_you_mean
from clip4vla.config.sections import LABEL_TASKS, Modality, Query, TaskName

Unit = Literal["percent", "points", "rank", "difference", "cost"]  # points: a score times 100
# Where a metric is shown; each place also shows the metrics of the places above it.
MAIN, CURVES, PAGES, FILES = range(4)  # the one number of a task; panels of curves; pages; files


@dataclass(frozen=True)
class Metric:
    """One row of the table. label: heading of a column; note: its unit, as footers explain it."""

    name: str
    label: str
    unit: Unit
    note: str = ""
    low: float = 0.0
    high: float = 100.0
    lower_is_better: bool = False
    shown: int = FILES

    @property
    def in_points(self) -> bool:
        """Whether differences are points, which can be averaged over metrics."""
        return self.unit in ("percent", "points")

    def better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another."""
        return value < than if self.lower_is_better else value > than


RECALLS = (1, 5, 10, 50)
WHITESPACE = "whitespace"  # suffix of caption metrics in the released code's tokenisation
_RECALL = "R@k: recall among the first k, in percent"
_MEDIAN = "MedR: median rank, lower is better (`above` means better than the paper)"
_MEAN = "MeanR: mean rank, lower is better (`above` means better than the paper)"
_CAPTION = "caption scores times 100"
_ACCURACY = "accuracy in percent, mean over folds or splits"
_PRECISION = "mAP: mean of the average precision of the classes that have positives, in percent"
_AUC = "mAUC: mean of the area under the ROC curve of the classes, in percent"
_HELPED = "helped and hurt: queries that a clip's own audio improves and worsens, in percent"
_CONFUSION = (
    "confusion: clips whose first class is right under the variant, and wrong with sound and "
    "picture, in percent"
)
_GAIN = "gain: mean improvement of a query by a clip's own audio"

METRICS: dict[TaskName, tuple[Metric, ...]] = {
    "retrieval": (
        Metric("R1", "R@1", "percent", _RECALL, shown=MAIN),
        Metric("R5", "R@5", "percent", _RECALL, shown=PAGES),
        Metric("R10", "R@10", "percent", _RECALL, shown=CURVES),
        Metric("R50", "R@50", "percent", _RECALL),
        Metric("MedR", "MedR", "rank", _MEDIAN, 1.0, inf, lower_is_better=True, shown=CURVES),
        Metric("MeanR", "MeanR", "rank", _MEAN, 1.0, inf, lower_is_better=True),
    ),
    "captioning": (
        Metric("BLEU1", "BLEU-1", "points", _CAPTION),
        Metric("BLEU2", "BLEU-2", "points", _CAPTION),
        Metric("BLEU3", "BLEU-3", "points", _CAPTION),
        Metric("BLEU4", "BLEU-4", "points", _CAPTION, shown=PAGES),
        Metric("METEOR", "METEOR", "points", _CAPTION, shown=CURVES),
        Metric("ROUGE_L", "ROUGE-L", "points", _CAPTION, shown=PAGES),
        Metric("CIDEr", "CIDEr", "points", _CAPTION, high=inf, shown=MAIN),
    ),
    "classification": (Metric("accuracy", "accuracy", "percent", _ACCURACY, shown=MAIN),),
    "tagging": (
        Metric("mAP", "mAP", "percent", _PRECISION, shown=MAIN),
        Metric("mAUC", "mAUC", "percent", _AUC, shown=PAGES),
    ),
}
SCORES: dict[TaskName, Metric] = {  # of one query, as predictions.parquet has them
    "retrieval": Metric("rank", "rank", "rank", low=1.0, high=inf, lower_is_better=True),
    "captioning": Metric("CIDEr", "CIDEr", "points", high=inf),
    "classification": Metric("right", "right", "points", high=1.0),
    "tagging": Metric("label_precision", "label precision", "points"),  # see `metrics/tagging.py`
}
GAINS = (  # of these scores, from a clip's own audio
    Metric("gain", "gain", "difference", _GAIN, -inf, inf),
    Metric("helped", "helped, %", "percent", _HELPED),
    Metric("hurt", "hurt, %", "percent", _HELPED, lower_is_better=True),
)
CONFUSION = Metric(  # of tagging, in a variant
    "modality_confusion", "confusion, %", "percent", _CONFUSION, lower_is_better=True
)
COSTS = (  # of pre-training; a name may have the device in place of `device`, as v100_days
    Metric("device_days", "device days", "cost", high=inf, lower_is_better=True),
    Metric("batch_size", "batch size", "cost", high=inf),
    Metric("trained_params_M", "trained params (M)", "cost", high=inf),
)

_ROWS = {
    **{metric.name: metric for table in METRICS.values() for metric in table},
    **{f"{score.name}_{gain.name}": gain for score in SCORES.values() for gain in GAINS},
    **{metric.name: metric for metric in (CONFUSION, *COSTS)},
}
_FULL = re.compile(
    r"(?:(?P<rule>.+)/)?(?:(?P<way>t2[av]|[av]2t|a2v|v2a|best_of_three)_)?"
    rf"(?P<name>\w+?)(?:_(?P<tokens>{WHITESPACE}))?"
)
_DAYS = re.compile(r"[a-z0-9]+_days(_min|_max)?")


@cache
def metric_of(name: str) -> Metric:
    """Return the row of the table that a full name stands for: R1 for `released/v2t_R1`."""
    found = _FULL.fullmatch(name)
    base = found["name"] if found else name
    base = "device_days" if _DAYS.fullmatch(base) else base
    if base not in _ROWS:
        raise ValueError(f"no metric {name!r}{did_you_mean(base, _ROWS)}")
    return _ROWS[base]


def is_cost(name: str) -> bool:
    """Return whether a name of paper.tsv is a cost of pre-training."""
    return name in {metric.name for metric in COSTS} or bool(_DAYS.fullmatch(name))


def label_of(name: str) -> str:
    """Return a full name's label: R@1 for t2v_R1 and t2a_R1, since a row has one of them.

    A name that is in no table is its own label: the config refuses it elsewhere.
    """
    found = _FULL.fullmatch(name)
    if found is None or found["name"] not in _ROWS:
        return name
    ways = [] if found["way"] in (None, "t2v", "t2a") else [found["way"]]
    details = [part for part in (found["rule"], *ways, found["tokens"]) if part]
    return _ROWS[found["name"]].label + (f" ({', '.join(details)})" if details else "")


def directions(modalities: Sequence[Modality], query: Query = "text") -> tuple[str, str]:
    """Return the prefixes of metrics, the main direction first.

    t2v and v2t, or t2a and a2t for audio alone; a2v and v2a where a clip's sound is the query.
    """
    if query != "text":
        return ("a2v", "v2a") if query == "audio" else ("v2a", "a2v")
    letter = "a" if list(modalities) == ["audio"] else "v"
    return f"t2{letter}", f"{letter}2t"


def own_name(metric: str, modalities: Sequence[Modality]) -> str:
    """Return a retrieval metric as a row of these modalities names it: t2a_R1 for audio only."""
    forward, backward = directions(modalities)
    metric = re.sub(r"(^|/)t2[av]_", rf"\g<1>{forward}_", metric)
    return re.sub(r"(^|/)[av]2t_", rf"\g<1>{backward}_", metric)


def main_metric(task: TaskName, modalities: Sequence[Modality], query: Query = "text") -> str:
    """Return the name of the one number of an evaluation, which also selects an epoch."""
    name = next(metric.name for metric in METRICS[task] if metric.shown == MAIN)
    return f"{directions(modalities, query)[0]}_{name}" if task == "retrieval" else name


def score_name(task: TaskName, modalities: Sequence[Modality], query: Query = "text") -> str:
    """Return the name of a query's score, as its gains have it: t2v_rank, CIDEr, right, ..."""
    name = SCORES[task].name
    return f"{directions(modalities, query)[0]}_{name}" if task == "retrieval" else name


@cache
def every_metric() -> tuple[str, ...]:
    """Return the metrics of all tasks, of every direction of retrieval."""
    both = get_args(Modality)
    cases: list[tuple[TaskName, tuple[Modality, ...], Query]]
    cases = [(task, both, "text") for task in get_args(TaskName)]
    cases += [("retrieval", ("audio",), "text")]
    cases += [("retrieval", both, "audio"), ("retrieval", both, "vision")]
    names = (
        name
        for task, modalities, query in cases
        for name in metric_names(task, modalities, True, True, varied=True, query=query)
    )
    return tuple(dict.fromkeys(names))


def metric_names(
    task: TaskName,
    modalities: Sequence[Modality],
    each: bool,
    frames: bool,
    varied: bool,
    query: Query = "text",
) -> list[str]:
    """Return every metric of an evaluation, or of a variant of it.

    each: whether texts are compared with each modality alone, too; frames: whether the variant has
    some;
    varied: whether the evaluation has variants, and with them the gain from a clip's own audio.
    Extras have their rule before a slash (docs/evaluation.md).
    """
    names = [metric.name for metric in METRICS[task]]
    score = score_name(task, modalities, query)
    gains = [f"{score}_{gain.name}" for gain in GAINS if varied]
    if task in LABEL_TASKS:
        return names + gains + ([CONFUSION.name] if varied and task == "tagging" else [])
    if task == "captioning":
        return names + [f"{name}_{WHITESPACE}" for name in names] + gains
    forward, backward = directions(modalities, query)
    plain = [f"{way}_{rank}" for way in (forward, backward) for rank in names]
    extras = [f"{rule}/{name}" for rule in ("released", "dual_softmax") for name in plain]
    if query == "text" and each and len(modalities) == 2 and frames:
        extras += [f"reranked/{forward}_{rank}" for rank in names]
    return plain + extras + gains

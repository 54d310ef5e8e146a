"""One page per evaluation: queries, answers and thumbnails of the clips.

It depends only on metrics.json, predictions.parquet, the cache and the places of the clips that it
plays; equal files give equal bytes.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clip4vla.cache.clips import ClipCache
from clip4vla.common.files import read_json, write_text
from clip4vla.common.html import render
from clip4vla.config.data import policy_text
from clip4vla.config.metrics import GAINS, PAGES, directions, every_metric, metric_of
from clip4vla.config.sections import Query
from clip4vla.metrics.tagging import class_scores, scored_labels
from clip4vla.pages.confusion import confusion
from clip4vla.pages.media import Addresses, nowhere
from clip4vla.pages.sampling import choose, counts
from clip4vla.pages.thumbnails import LEGEND, Thumbnails

CONTROLS = ("audio=silent", "audio=shuffled", "audio=swapped")  # the first that was scored
REFERENCES = 5  # shown before `more`


def write_examples(
    cache: ClipCache, folder: Path, out: Path | None = None, address: Addresses = nowhere
) -> list[str]:
    """Write folder/examples.html, or `out`, from the two files of the evaluation in the folder.

    address: where each clip is played from. Returns the ids of the clips that the page shows.
    """
    metrics = read_json(folder / "metrics.json")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    thumbnails = Thumbnails(cache, address)
    make = {
        "retrieval": _retrieval,
        "captioning": _captions,
        "classification": _classes,
        "tagging": _tags,
    }
    values = make[metrics["task"]](metrics, predictions, thumbnails)
    html = render(
        f"pages/{metrics['task']}.html",
        title=f"{metrics['task'].capitalize()} on {metrics['dataset']}, split {metrics['split']}",
        facts=_facts(metrics),
        scores=_scores(metrics),
        pictures=thumbnails.css(),
        media=thumbnails.media,
        **values,
    )
    write_text(out or folder / "examples.html", html)
    return list(thumbnails.classes)


def _facts(metrics: dict) -> list[str]:
    """Return the lines on run, data and policy."""
    coverage, gallery = metrics["coverage"], metrics["galleries"][_main(metrics)]
    expected = coverage["expected"] if coverage["expected"] is not None else "?"
    where = "all clips" if _main(metrics) == "all" else "clips with a sound of their own"
    return [
        f"Run {metrics['run_key']}: {metrics['task']} {_way(metrics)}, "
        f"{metrics['data_version']}, split {metrics['split']}; {where}: {gallery['n_queries']} "
        f"queries, {gallery['n_gallery']} clips, ids {gallery['ids_sha256'][:12]}; "
        f"{coverage['scored']} of {expected} clips scored, {coverage['silent']} silent, "
        f"policy for them: {policy_text(metrics['missing_audio'])}.",
        LEGEND,
    ]


def _way(metrics: dict) -> str:
    """Return what a clip is represented by, or found by."""
    if _query(metrics) == "text":
        return f"by {' and '.join(metrics['modalities'])}"
    return "of pictures by sound" if _query(metrics) == "audio" else "of sounds by picture"


def _query(metrics: dict) -> Query:
    query: Query = metrics.get("query") or "text"
    return query


def _main(metrics: dict) -> str:
    """Return the gallery that the predictions are of."""
    return "all" if "all" in metrics["galleries"] else "with_sound"


def _scores(metrics: dict) -> list[list[str]]:
    """Return head and rows of headline metrics and gains of every gallery and variant."""
    lines = [("as evaluated", metrics)] + list(metrics.get("variants", {}).items())
    first = metrics["galleries"][_main(metrics)]["metrics"]
    backward = directions(metrics["modalities"], _query(metrics))[1]
    names = [n for n in every_metric() if n in first and not n.startswith(backward)]
    names = [n for n in names if metric_of(n).shown <= PAGES or metric_of(n) in GAINS]
    rows = [["", "gallery", "queries", *names]]
    for label, scored in lines:
        for gallery, numbers in sorted(scored["galleries"].items()):
            values = [numbers["metrics"].get(name) for name in names]
            shown = ["—" if value is None else f"{round(value, 1) + 0.0:.1f}" for value in values]
            rows.append([label, gallery.replace("_", " "), str(numbers["n_queries"]), *shown])
    return rows


class _Control(NamedTuple):
    """A control for the gain from own audio, with its score of every query."""

    name: str
    scores: pd.Series


def _control(predictions: pd.DataFrame, score: str) -> _Control | None:
    """Return the first control that was scored, on the larger gallery."""
    for control in CONTROLS:
        for gallery in ("all", "with_sound"):
            if (column := f"{score}/{gallery}/{control}") in predictions:
                return _Control(control, predictions[column])
    return None


class _Choice(NamedTuple):
    """The queries to show, by position, with their groups, and what own sound is worth to them."""

    chosen: dict[int, list[str]]
    control: _Control | None
    gain: np.ndarray | None

    def gain_at(self, position: int) -> float | None:
        """Return the gain of a query; None where it is unknown."""
        if self.gain is None or np.isnan(self.gain[position]):
            return None
        return float(self.gain[position])

    def values(self, cards: list[dict[str, Any]], orders: dict[str, str]) -> dict[str, Any]:
        """Return the values of a template for these cards."""
        if self.gain is not None:
            orders = orders | {"sound helps most": "gain -1", "sound hurts most": "gain 1"}
        control = self.control.name if self.control else ""
        return {
            "cards": cards,
            "groups": counts(self.chosen),
            "orders": orders,
            "control": control,
        }


def _choose(predictions: pd.DataFrame, score: str, sign: int) -> _Choice:
    """Choose by a score of which more (sign 1) or less (-1) is better."""
    quality, control = sign * predictions[score], _control(predictions, score)
    gain = None if control is None else (quality - sign * control.scores).to_numpy(dtype=float)
    return _Choice(choose(quality.to_numpy(dtype=float), gain), control, gain)


def _retrieval(metrics: dict, predictions: pd.DataFrame, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the values of retrieval.html."""
    choice = _choose(predictions, "rank", -1)
    clips = predictions.drop_duplicates("clip_id").set_index("clip_id")

    said, asked = "caption" in predictions, "sound" if _query(metrics) == "audio" else "picture"

    def known(clip_id: str) -> pd.Series | None:
        return clips.loc[clip_id] if clip_id in clips.index else None

    cards = []
    for position, groups in choice.chosen.items():
        row = predictions.iloc[position]
        card = {
            "groups": groups,
            "numbers": {"rank": row["rank"], "gain": choice.gain_at(position)},
            "query": row.query,
            "caption": row.caption if said else f"the {asked} of {row.clip_id}",
            "wanted": thumbnails.of(row.clip_id, row),
        }
        first = [thumbnails.of(clip_id, known(clip_id)) for clip_id in row.top5]
        card["answers"] = [("first answers (green: the right one)", first)]
        if choice.control is not None:
            card["without"] = choice.control.scores.iloc[position]
            other = row.get(f"top5/{choice.control.name}")
            if other is not None and not isinstance(other, float):
                under = f"the same under {choice.control.name}"
                card["answers"].append((under, [thumbnails.of(clip_id) for clip_id in other]))
        cards.append(card)
    values = choice.values(cards, {"rank, best first": "rank 1", "rank, worst first": "rank -1"})
    return values | {"size": metrics["galleries"][_main(metrics)]["n_gallery"]}


def _captions(metrics: dict, predictions: pd.DataFrame, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the values of captioning.html."""
    choice = _choose(predictions, "CIDEr", 1)
    cards = []
    for position, groups in choice.chosen.items():
        row = predictions.iloc[position]
        card = {
            "groups": groups,
            "numbers": {"cider": row.CIDEr, "gain": choice.gain_at(position)},
            "clip": thumbnails.of(row.clip_id, row),
            "hypothesis": row.hypothesis,
            "references": list(row.references),
        }
        if choice.control is not None:
            card["without"] = row.get(f"hypothesis/{choice.control.name}")
            card["cider_without"] = choice.control.scores.iloc[position]
        cards.append(card)
    orders = {"CIDEr, best first": "cider -1", "CIDEr, worst first": "cider 1"}
    return choice.values(cards, orders) | {"references": REFERENCES}


def _classes(metrics: dict, predictions: pd.DataFrame, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the values of classification.html."""
    right = predictions.label == predictions.predicted
    chosen = choose(right.to_numpy(dtype=float), names=("right", "wrong"))
    chosen = {
        position: [g for g in groups if g not in ("right", "wrong")]
        + ["right" if right.iloc[position] else "wrong"]
        for position, groups in chosen.items()
    }
    rows = [(predictions.iloc[position], groups) for position, groups in chosen.items()]
    mixed = Counter(zip(predictions.label[~right], predictions.predicted[~right], strict=True))
    pairs = [[a, b, str(n)] for (a, b), n in sorted(mixed.items(), key=lambda i: (-i[1], i[0]))]
    return {
        "cards": [
            {
                "groups": groups,
                "numbers": {},
                "clip": thumbnails.of(row.clip_id, row),
                "label": row.label,
                "predicted": row.predicted,
            }
            for row, groups in rows
        ],
        "groups": counts(chosen),
        "orders": {},
        "confusion": confusion(list(predictions.label), list(predictions.predicted)),
        "mixed": pairs[:20],
    }


def _tags(metrics: dict, predictions: pd.DataFrame, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the values of tagging.html."""
    choice = _choose(predictions, "label_precision", 1)
    cards = []
    for position, groups in choice.chosen.items():
        row = predictions.iloc[position]
        card = {
            "groups": groups,
            "numbers": {"precision": row.label_precision, "gain": choice.gain_at(position)},
            "clip": thumbnails.of(row.clip_id, row),
            "labels": list(row["labels"]),
            "found": list(row.top5),
        }
        if choice.control is not None:
            card["without"] = list(row.get(f"top5/{choice.control.name}"))
            card["precision_without"] = choice.control.scores.iloc[position]
        cards.append(card)
    orders = {"label precision, best first": "precision -1", "worst first": "precision 1"}
    classes = metrics["galleries"][_main(metrics)]["classes"]
    return choice.values(cards, orders) | {
        "classes": classes,
        "by_class": _by_class(metrics["classes"], predictions),
    }


def _by_class(classes: list[str], predictions: pd.DataFrame) -> list[list[str]]:
    """Return name, positives, AP and AUC of the classes that have positives, the best first."""
    scores = np.stack(predictions["scores"].to_list())
    found = scored_labels(list(predictions["labels"]), classes, scores)
    numbers = class_scores(found.targets, found.scores, classes, list(predictions.clip_id))
    percent = 100.0 * np.stack([numbers.average_precision, numbers.auc])
    order = np.argsort(-percent[0], kind="stable")
    return [
        [classes[c], str(numbers.positives[c]), f"{percent[0, c]:.1f}", f"{percent[1, c]:.1f}"]
        for c in order
        if numbers.positives[c]
    ]

"""Two evaluations side by side: the queries that one gets right and the other does not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clip4vla.cache.clips import ClipCache
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, write_text
from clip4vla.common.html import render
from clip4vla.pages.media import Addresses, nowhere
from clip4vla.pages.sampling import EXTREMES, counts
from clip4vla.pages.thumbnails import LEGEND, Thumbnails

SCORES = {"retrieval": "rank", "captioning": "CIDEr", "tagging": "label_precision"}
RIGHT = ("only first right", "only second right", "both right", "both wrong")
BETTER = ("first better", "second better", "equal")


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: its name, metrics.json and predictions.parquet."""

    name: str
    metrics: dict[str, Any]
    predictions: pd.DataFrame


def read_evaluated(folder: Path, name: str) -> Evaluated:
    """Read the files of an evaluation from its folder."""
    predictions = pd.read_parquet(folder / "predictions.parquet")
    return Evaluated(name, read_json(folder / "metrics.json"), predictions)


def write_pair(
    cache: ClipCache, first: Evaluated, second: Evaluated, out: Path, address: Addresses = nowhere
) -> list[str]:
    """Write a page of the queries of two evaluations of the same clips; return the clips' ids.

    Retrieval and classification: which queries each gets right. Captions and tags: which are
    better. Raises UserError for evaluations of different tasks or clips.
    """
    task = first.metrics["task"]
    _check(first, second)
    both = _joined(first, second)
    groups = _groups(task, both)
    thumbnails = Thumbnails(cache, address)
    chosen: dict[int, list[str]] = {}
    sizes = {name: int((groups == name).sum()) for name in (RIGHT if _decides(task) else BETTER)}
    size = np.abs(both["score_1"] - both["score_2"])
    for name in sizes:
        own = np.flatnonzero(groups == name)
        for position in own[np.argsort(-size.to_numpy()[own], kind="stable")][:EXTREMES]:
            chosen[int(position)] = [name.replace(" ", "-")]
    sign = -1 if task == "retrieval" else 1
    cards = []
    for position, names in chosen.items():
        row = both.iloc[position]
        gain = sign * (row.score_1 - row.score_2)
        sides = [
            {"name": side.name, "score": _score(task, row, n), "clips": [], "texts": []}
            | _answer(task, row, n, thumbnails)
            for n, side in enumerate((first, second), start=1)
        ]
        card = {
            "groups": names,
            "numbers": {"gain": float(gain)},
            "sides": sides,
            "wanted": thumbnails.of(row.clip_id),
            "said": _said(task, row),
        }
        cards.append(card)
    html = render(
        "pages/pair.html",
        title=f"{task.capitalize()} on {first.metrics['dataset']}: two runs side by side",
        facts=[f"First: {first.name}. Second: {second.name}.", LEGEND],
        scores=[["", "queries", "share"], *_shares(sizes)],
        cards=cards,
        groups=counts(chosen),
        orders={"first better, most": "gain -1", "second better, most": "gain 1"},
        pictures=thumbnails.css(),
        media=thumbnails.media,
    )
    write_text(out, html)
    return list(thumbnails.classes)


def _decides(task: str) -> bool:
    return task in ("retrieval", "classification")


def _check(first: Evaluated, second: Evaluated) -> None:
    one, two = first.metrics, second.metrics
    place = f"{first.name} and {second.name}"
    for key in ("task", "query", "data_version", "split", "gallery"):
        if one.get(key) != two.get(key):
            raise UserError(
                f"{place}: {key} is {one.get(key)!r} and {two.get(key)!r}. Fix: choose two "
                "evaluations of the same kind"
            )
    ids = [side["galleries"][side["gallery"]]["ids_sha256"] for side in (one, two)]
    if ids[0] != ids[1]:
        raise UserError(
            f"{place}: they were scored on different clips ({ids[0][:12]}, {ids[1][:12]}). Fix: "
            "choose two evaluations with the same clips"
        )


def _joined(first: Evaluated, second: Evaluated) -> pd.DataFrame:
    """Return the queries of both, with score_1, score_2 and the answers of each."""
    task = first.metrics["task"]
    key = "query" if task == "retrieval" else "clip_id"
    frames = []
    for side in (first, second):
        frame = side.predictions.copy()
        if task == "classification":
            frame["score"] = (frame.label == frame.predicted).astype(float)
        else:
            frame["score"] = frame[SCORES[task]]
        frames.append(frame)
    shared = [n for n in ("clip_id", "caption", "label", "labels", "references") if n in frames[0]]
    told = [n for n in ("score", "top5", "hypothesis", "predicted") if n in frames[0]]
    left = frames[0][[*dict.fromkeys([key, *shared]), *told]]
    return left.merge(frames[1][[key, *told]], on=key, suffixes=("_1", "_2"), validate="1:1")


def _groups(task: str, both: pd.DataFrame) -> np.ndarray:
    one, two = both["score_1"].to_numpy(dtype=float), both["score_2"].to_numpy(dtype=float)
    if not _decides(task):
        return np.select([one > two, two > one], BETTER[:2], BETTER[2])
    right_1, right_2 = (one <= 1, two <= 1) if task == "retrieval" else (one == 1, two == 1)
    return np.select([right_1 & ~right_2, right_2 & ~right_1, right_1], RIGHT[:3], RIGHT[3])


def _shares(sizes: dict[str, int]) -> list[list[str]]:
    total = max(sum(sizes.values()), 1)
    return [[name, str(size), f"{100 * size / total:.1f} %"] for name, size in sizes.items()]


def _said(task: str, row: pd.Series) -> str:
    """Return what a query says, or what a clip is labelled with."""
    if task == "retrieval":
        return str(row.get("caption", row.clip_id))
    if task == "captioning":
        return str(list(row.references)[0])
    return str(row["label"]) if task == "classification" else "; ".join(row["labels"])


def _score(task: str, row: pd.Series, n: int) -> str:
    value = row[f"score_{n}"]
    if task == "classification":
        return "right" if value == 1 else "wrong"
    names = {"retrieval": "rank", "captioning": "CIDEr", "tagging": "label precision"}
    return f"{names[task]} {value:g}" if task == "retrieval" else f"{names[task]} {value:.1f}"


def _answer(task: str, row: pd.Series, n: int, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return what a run answers: clips, or texts."""
    if task == "retrieval":
        return {"clips": [thumbnails.of(clip_id) for clip_id in row[f"top5_{n}"]]}
    if task == "captioning":
        return {"texts": [row[f"hypothesis_{n}"] or "(nothing)"]}
    if task == "classification":
        return {"texts": [row[f"predicted_{n}"]]}
    return {"texts": list(row[f"top5_{n}"])}

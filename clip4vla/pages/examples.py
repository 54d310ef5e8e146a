"""One page per evaluation: queries, answers and thumbnails of the clips.

It depends only on metrics.json, predictions.parquet and the cache; equal files give equal bytes.
"""

from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from clip4vla.cache.clips import ClipCache
from clip4vla.common.files import read_json, write_text
from clip4vla.config.data import policy_text
from clip4vla.config.metrics import GAINS, PAGES, directions, every_metric, metric_of
from clip4vla.pages.confusion import confusion
from clip4vla.pages.sampling import choose, counts
from clip4vla.pages.shell import card, cards, page, table
from clip4vla.pages.thumbnails import LEGEND, Thumbnails

CONTROLS = ("audio=silent", "audio=shuffled", "audio=swapped")  # the first that was scored
REFERENCES = 5  # shown before `more`


def write_examples(cache: ClipCache, folder: Path) -> None:
    """Write folder/examples.html from the two files of the evaluation in it."""
    metrics = read_json(folder / "metrics.json")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    thumbnails = Thumbnails(cache)
    make = {"retrieval": _retrieval, "captioning": _captions, "classification": _classes}
    body = make[metrics["task"]](metrics, predictions, thumbnails)
    body = f"{_scores(metrics)}\n{body}"
    title = f"{metrics['task'].capitalize()} on {metrics['dataset']}, split {metrics['split']}"
    write_text(folder / "examples.html", page(title, _facts(metrics), body, thumbnails))


def _facts(metrics: dict) -> list[str]:
    """Return the lines on run, data and policy."""
    coverage, gallery = metrics["coverage"], metrics["galleries"][_main(metrics)]
    expected = coverage["expected"] if coverage["expected"] is not None else "?"
    where = "all clips" if _main(metrics) == "all" else "clips with a sound of their own"
    return [
        f"Run {metrics['run_key']}: {metrics['task']} by {' and '.join(metrics['modalities'])}, "
        f"{metrics['data_version']}, split {metrics['split']}; {where}: {gallery['n_queries']} "
        f"queries, {gallery['n_gallery']} clips, ids {gallery['ids_sha256'][:12]}; "
        f"{coverage['scored']} of {expected} clips scored, {coverage['silent']} silent, "
        f"policy for them: {policy_text(metrics['missing_audio'])}.",
        LEGEND,
    ]


def _main(metrics: dict) -> str:
    """Return the gallery that the predictions are of."""
    return "all" if "all" in metrics["galleries"] else "with_sound"


def _scores(metrics: dict) -> str:
    """Return a table of headline metrics and gains of every gallery and variant."""
    lines = [("as evaluated", metrics)] + list(metrics.get("variants", {}).items())
    first = metrics["galleries"][_main(metrics)]["metrics"]
    backward = directions(metrics["modalities"])[1]
    names = [n for n in every_metric() if n in first and not n.startswith(backward)]
    names = [n for n in names if metric_of(n).shown <= PAGES or metric_of(n) in GAINS]
    rows = []
    for label, scored in lines:
        for gallery, numbers in sorted(scored["galleries"].items()):
            values = [numbers["metrics"].get(name) for name in names]
            shown = ["—" if value is None else f"{round(value, 1) + 0.0:.1f}" for value in values]
            rows.append([label, gallery.replace("_", " "), str(numbers["n_queries"]), *shown])
    return table(["", "gallery", "queries", *names], rows)


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


def _sound(row: pd.Series) -> str:
    """Describe the source of a clip's audio."""
    text = {
        "own": "its own sound",
        "none": "no sound",
        "donor": f"the sound of {row.sound_of}",
        "other": f"the sound of {row.sound_of}",
    }[row.audio_origin]
    return f'<span class="{row.audio_origin}">{escape(text)}</span>'


def _figure(thumbnails: Thumbnails, clip_id: str, words: str, kind: str = "") -> str:
    return (
        f'<figure class="{kind}">{thumbnails.html(clip_id)}'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _retrieval(metrics: dict, predictions: pd.DataFrame, thumbnails: Thumbnails) -> str:
    control = _control(predictions, "rank")
    gain = None
    if control is not None:
        gain = (control.scores - predictions["rank"]).to_numpy(dtype=float)
    chosen = choose(-predictions["rank"].to_numpy(dtype=float), gain)
    clips = predictions.drop_duplicates("clip_id").set_index("clip_id")
    size = metrics["galleries"][_main(metrics)]["n_gallery"]

    def answers(label: str, row: pd.Series, top: Iterable[str], with_sounds: bool) -> str:
        figures = []
        for place, clip_id in enumerate(top, start=1):
            known = clips.loc[clip_id] if clip_id in clips.index else None
            words = f"{place}. {escape(clip_id)}"
            words += f"<br>{_sound(known)}" if with_sounds and known is not None else ""
            right = "right" if clip_id == row.clip_id else ""
            figures.append(_figure(thumbnails, clip_id, words, right))
        return f'<div class="row"><b>{label}</b>{"".join(figures)}</div>'

    shown = []
    for position, groups in chosen.items():
        row = predictions.iloc[position]
        own_gain = None if gain is None or np.isnan(gain[position]) else float(gain[position])
        meta = f"query {row.query}: rank <b>{row['rank']:g}</b> of {size}"
        if control is not None and own_gain is not None:
            without = f"rank {control.scores.iloc[position]:g}"
            meta += f"; {escape(control.name)}: {without}, own sound: {own_gain:+g}"
        wanted = f"wanted: {escape(row.clip_id)}<br>{_sound(row)}"
        body = f'<p class="said">{escape(row.caption)}</p><p class="meta">{meta}</p>'
        body += f'<div class="with">{_figure(thumbnails, row.clip_id, wanted, "wanted")}<div>'
        body += answers("first answers (green: the right one)", row, row.top5, True)
        other = None if control is None else row.get(f"top5/{control.name}")
        if control is not None and other is not None and not isinstance(other, float):
            body += answers(f"the same under {escape(control.name)}", row, other, False)
        shown.append(card(groups, {"rank": row["rank"], "gain": own_gain}, body + "</div></div>"))
    orders = {"rank, best first": "rank 1", "rank, worst first": "rank -1"}
    if gain is not None:
        orders |= {"sound helps most": "gain -1", "sound hurts most": "gain 1"}
    return cards(shown, counts(chosen), orders)


def _captions(metrics: dict, predictions: pd.DataFrame, thumbnails: Thumbnails) -> str:
    control = _control(predictions, "CIDEr")
    gain = None
    if control is not None:
        gain = (predictions.CIDEr - control.scores).to_numpy(dtype=float)
    chosen = choose(predictions.CIDEr.to_numpy(dtype=float), gain)
    shown = []
    for position, groups in chosen.items():
        row = predictions.iloc[position]
        own_gain = None if gain is None or np.isnan(gain[position]) else float(gain[position])
        figure = _figure(thumbnails, row.clip_id, escape(row.clip_id), "wanted")
        body = f'<div class="with">{figure}<div>'
        body += f'<p class="said">{escape(row.hypothesis) or "(nothing)"}</p>'
        body += f'<p class="meta">CIDEr <b>{row.CIDEr:.1f}</b>; {_sound(row)}</p>'
        if control is not None and own_gain is not None:
            other = f"{control.name}: “{row.get(f'hypothesis/{control.name}')}”"
            other += f", CIDEr {control.scores.iloc[position]:.1f}"
            body += f'<p class="meta">{escape(other)}</p>'
        lines = [f"<li>{escape(text)}</li>" for text in row.references]
        body += f"<ul>{''.join(lines[:REFERENCES])}</ul>"
        if more := lines[REFERENCES:]:
            body += (
                f"<details><summary>{len(more)} more</summary><ul>{''.join(more)}</ul></details>"
            )
        shown.append(card(groups, {"cider": row.CIDEr, "gain": own_gain}, body + "</div></div>"))
    orders = {"CIDEr, best first": "cider -1", "CIDEr, worst first": "cider 1"}
    if gain is not None:
        orders |= {"sound helps most": "gain -1", "sound hurts most": "gain 1"}
    return cards(shown, counts(chosen), orders)


def _classes(metrics: dict, predictions: pd.DataFrame, thumbnails: Thumbnails) -> str:
    right = predictions.label == predictions.predicted
    chosen = choose(right.to_numpy(dtype=float), names=("right", "wrong"))
    chosen = {
        position: [g for g in groups if g not in ("right", "wrong")]
        + ["right" if right.iloc[position] else "wrong"]
        for position, groups in chosen.items()
    }
    shown = []
    for position, groups in chosen.items():
        row = predictions.iloc[position]
        verdict = "right" if right.iloc[position] else f"predicted {row.predicted}"
        body = f'<div class="with">{_figure(thumbnails, row.clip_id, escape(row.clip_id))}<div>'
        body += f'<p class="said">{escape(row.label)}</p><p class="meta">{escape(verdict)}; '
        shown.append(card(groups, {}, f"{body}{_sound(row)}</p></div></div>"))
    mixed = Counter(zip(predictions.label[~right], predictions.predicted[~right], strict=True))
    pairs = [[a, b, str(n)] for (a, b), n in sorted(mixed.items(), key=lambda i: (-i[1], i[0]))]
    return "\n".join(
        [
            "<h2>Confusion</h2>",
            confusion(list(predictions.label), list(predictions.predicted)),
            table(["label", "taken for", "clips"], pairs[:20]) if pairs else "",
            "<h2>Clips</h2>",
            cards(shown, counts(chosen), {}, "pairs"),
        ]
    )

"""The small print under a table: units, rules, data behind every N, and the claim as a whole."""

from clip4vla.config.run import CODE_VERSION
from clip4vla.results.compare import (
    NO_REFERENCE,
    OTHER_GALLERY,
    OTHER_PROTOCOL,
    PAPER_ONLY,
    TOLERANCE,
    Entry,
    lower_is_better,
)
from clip4vla.results.cost import Cost, cost_notes
from clip4vla.results.order import best_notes, order_notes
from clip4vla.results.paper import Published
from clip4vla.results.sheet import Sheet
from clip4vla.results.text import number, signed
from clip4vla.results.tidy import HALF_WEIGHTS

LEAKS = "Clips left out of pre-training because their videos are held out"
WARNINGS = (  # what a selection means, where it is not the usual one
    (
        "best_test_as_paper",
        "Numbers selected by best_test_as_paper are those of the epoch that is best on the "
        "reported test split itself, as the authors chose theirs: too high by the luck of that "
        "choice, and not to be mixed with numbers that were selected on validation.",
    ),
    (
        HALF_WEIGHTS,
        f"Numbers of the {HALF_WEIGHTS} come from towers trained with float16 weights and moments, "
        "as the released code trains them (docs/deviations.md): they are not to be mixed with "
        "others.",
    ),
)
CAPTION_METRICS = {"BLEU4", "METEOR", "ROUGE_L", "CIDEr"}

EXTRAS = {
    "released": "ranks of equals as the released code counts them",
    "dual_softmax": "similarity times its softmax over the other side, which looks at all queries",
    "reranked": "the first 50 clips by vision, ranked again by vision and audio",
}


def footers(
    sheet: Sheet, entries: list[Entry], paper: list[Published], costs: dict[str, Cost]
) -> list[str]:
    """All lines of small print, each a sentence or two."""
    measured = [entry for entry in entries if entry.ours is not None]
    lines = [_units(sheet)]
    if measured:
        lines.append(
            "Ours is the mean over seeds ± the sample standard deviation; difference is ours minus "
            f"paper. Within: the difference is at most max(2 sd, {TOLERANCE} point). Partial: "
            "seeds are missing, or clips or captions of the official lists."
        )
        lines += _folds(measured)
        if any(entry.paper is not None for entry in entries):
            lines.append(_summary(entries, measured))
        lines += order_notes(sheet, measured) + best_notes(sheet, measured)
        lines += _data(sheet, measured)
        lines += _shared("Silent clips", "policy", measured)
        lines += _shared("Checkpoint selection", "selection", measured)
        lines += [text for mark, text in WARNINGS if any(mark in e.selection for e in measured)]
        if any(entry.leaks_dropped for entry in measured):
            lines += _shared(LEAKS, "leaks_dropped", measured)
        if any("_R" in entry.metric for entry in measured):
            lines += _shared("Rank of a tie", "tie_rule", measured)
            lines += _ties(sheet, measured)
        lines += [f"{name}: {text}." for name, text in EXTRAS.items() if _shows(sheet, name)]
    lines += _missing(entries)
    lines.append(f"{NO_REFERENCE}: the paper prints no number, or there is nothing to compare.")
    lines += _oddities(sheet, entries, paper)
    lines += cost_notes(sheet, costs)
    lines += sheet.footers
    lines.append(f"Numbers of code version {CODE_VERSION}.")
    return lines


def _units(sheet: Sheet) -> str:
    metrics = {column.metric for column in sheet.columns}
    parts = []
    if any("_R" in metric for metric in metrics - CAPTION_METRICS):
        parts.append("R@k: recall among the first k, in percent")
    if any(lower_is_better(metric) for metric in metrics):
        parts.append("MedR: median rank, lower is better (`above` means better than the paper)")
    if metrics & CAPTION_METRICS:
        parts.append("caption scores times 100")
    if "accuracy" in metrics:
        parts.append("accuracy in percent, mean over folds or splits")
    return f"Units: {'; '.join(parts) or 'as printed in the paper'}."


def _folds(measured: list[Entry]) -> list[str]:
    if all(entry.folds == 1 for entry in measured):
        return []
    return [
        "Folds: each is a run of its own, selected on its own training clips; a number is their "
        "mean ± the sample standard deviation over them (mean over seeds), which tells how much "
        "the folds differ: a verdict counts the spread over seeds alone."
    ]


def _summary(entries: list[Entry], measured: list[Entry]) -> str:
    wanted = [
        e
        for e in entries
        if e.kind == "ours"
        and e.paper is not None
        and e.verdict not in (PAPER_ONLY, OTHER_GALLERY, OTHER_PROTOCOL)
    ]
    compared = [e for e in measured if e.difference is not None and not lower_is_better(e.metric)]
    text = f"{sum(e.ours is not None for e in wanted)} of {len(wanted)} numbers of ours are there"
    if not compared:
        return f"{text}."
    bias = sum(e.difference for e in compared) / len(compared)
    size = sum(abs(e.difference) for e in compared) / len(compared)
    return (
        f"{text}; mean difference {signed(bias)}, mean size of a difference {size:.1f} "
        "(without ranks)."
    )


def _data(sheet: Sheet, measured: list[Entry]) -> list[str]:
    seen = {}
    for e in measured:
        ids = " ".join(digest[:12] for digest in e.ids_sha256.split())
        size = e.gallery_size
        key = (e.dataset, e.gallery, e.protocol, e.data_version, ids, size)
        gallery = "all clips" if e.gallery == "all" else "clips with sound"
        seen[key] = (
            f"Data: {sheet.dataset_label(e.dataset)}, protocol {e.protocol}, {gallery}: version "
            f"{e.data_version}, N = {size}, ids sha256 {ids}."
        )
    return list(seen.values())


def _shared(name: str, field: str, measured: list[Entry]) -> list[str]:
    values: dict[str, list[str]] = {}
    for entry in measured:
        values.setdefault(getattr(entry, field) or "none", []).append(entry.label)
    if len(values) == 1:
        return [f"{name}: {next(iter(values))}."]
    parts = [f"{value} ({', '.join(dict.fromkeys(rows))})" for value, rows in values.items()]
    return [f"{name}: {'; '.join(parts)}."]


def _ties(sheet: Sheet, measured: list[Entry]) -> list[str]:
    """Numbers that ties leave open, from all lost to all won."""
    open_ = [
        f"{e.label} on {sheet.dataset_label(e.dataset)} {e.metric} "
        f"{number(e.pessimistic, e.metric)} to {number(e.optimistic, e.metric)}"
        for e in measured
        if e.pessimistic is not None
        and number(e.pessimistic, e.metric) != number(e.optimistic, e.metric)
    ]
    return [f"All ties lost to all won: {'; '.join(open_)}."] if open_ else []


def _shows(sheet: Sheet, extra: str) -> bool:
    metrics = [c.metric for c in sheet.columns]
    metrics += [metric for row in sheet.rows for metric in row.metrics.values()]
    return any(metric.startswith(f"{extra}/") for metric in metrics)


def _missing(entries: list[Entry]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        open_ = entry.ours is None or entry.verdict in ("partial", OTHER_PROTOCOL)
        if entry.kind == "ours" and open_ and entry.reason and entry.paper is not None:
            reason = entry.reason
            if entry.ours is None and reason.startswith("waiting for"):
                reason = "its runs have not ended (table.csv names them)"
            place = f"{entry.label} on {entry.dataset}"
            reasons.setdefault(f"{entry.verdict}, {reason}", []).append(place)
    return [f"{_upper(why)}: {', '.join(dict.fromkeys(at))}." for why, at in reasons.items()]


def _oddities(sheet: Sheet, entries: list[Entry], paper: list[Published]) -> list[str]:
    """The notes of paper.tsv on the numbers shown; rows that share a note share a line."""
    shown = {(e.row, e.metric) for e in entries if e.paper is not None}
    table = sheet.paper_table or sheet.table
    notes: dict[tuple[str, str], list[Published]] = {}
    for item in paper:
        if item.table == table and item.note and (item.row, item.metric) in shown:
            notes.setdefault((item.source, item.note), []).append(item)
    lines = []
    for (source, note), items in notes.items():
        labels = ", ".join(dict.fromkeys(item.label for item in items))
        metrics = {item.metric for item in items}
        where = f"{labels}, {items[0].metric}" if len(metrics) == 1 else labels
        lines.append(f"{source} ({where}): {note}.")
    return lines


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]

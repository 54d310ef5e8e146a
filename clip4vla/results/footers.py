"""Footers of a table: units, rules, the data behind every N, and a summary."""

from collections.abc import Callable, Sequence

from clip4vla.config.data import policy_text, reads_test_captions
from clip4vla.config.metrics import metric_of
from clip4vla.config.run import CODE_VERSION
from clip4vla.results.compare import (
    NO_REFERENCE,
    NOT_COMPARABLE,
    OTHER_GALLERY,
    OTHER_PROTOCOL,
    TOLERANCE,
    Entry,
)
from clip4vla.results.cost import Cost, cost_notes
from clip4vla.results.order import best_notes, order_notes
from clip4vla.results.paper import Published
from clip4vla.results.sheet import Sheet
from clip4vla.results.text import number, signed
from clip4vla.results.tidy import HALF_WEIGHTS

LEAKS = "Clips left out of pre-training because their videos are held out"
LEAKS_KEPT = "Scored clips of videos that pre-training has read"
CLASSES = "Classes of mAP"
RESCORED = "Candidates of each query that a second score of its pairs ranks"
SMALL_BATCHES = "Batches smaller than asked for, because training had fewer samples"
WARNINGS = (  # (text in `selection`, warning) for unusual selections
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
POLICY_WARNING = (
    "Numbers under released_links give a silent test clip the sound of the training clip whose "
    "caption is nearest to the test clip's own caption: they read the test captions, by which they "
    "are scored. The released donor script, run as it is, does so (docs/deviations.md, D11); that "
    "the published number did is unproven. They are not to be mixed with others."
)
MADE_WITH = ("Model:", "First weights:", "Pre-training:", "Fine-tuning:", "Checkpoint selection:")
TIED_PLACES = "released (a2v, v2a)"
EXTRAS = {
    "released": "ranks of equals as the released code counts them",
    TIED_PLACES: "between sounds and pictures, each place of a tie is an answer, as CAV-MAE's code "
    "counts them",
    "dual_softmax": "similarity times its softmax over the other side, which looks at all queries",
    "reranked": "the first 50 clips by vision, ranked again by vision and audio",
}


def footers(
    sheet: Sheet, entries: list[Entry], paper: list[Published], costs: dict[str, Cost]
) -> list[str]:
    """Return all footers, each a sentence or two."""
    measured = [entry for entry in entries if entry.ours is not None]
    lines = [_units(sheet)]
    if measured:
        lines.append(
            "Ours is the mean over seeds ± the sample standard deviation; difference is ours minus "
            f"paper. Within: the difference is at most max(2 sd, {TOLERANCE} point). Partial: "
            "seeds are missing, or clips or captions of the official lists. Not comparable: model, "
            "first weights or data are not those of the paper's row."
        )
        lines += _folds(measured)
        if any(entry.paper is not None for entry in entries):
            lines.append(_summary(entries, measured))
        lines += order_notes(sheet, measured) + best_notes(sheet, measured)
        lines += _data(sheet, measured)
        lines += _shared("Silent clips", "policy", measured, show=policy_text)
        if any(reads_test_captions(name) for e in measured for name in e.policy.split()):
            lines.append(POLICY_WARNING)
        lines += _shared("Model", "model", measured)
        lines += _shared("First weights", "weights", measured)
        lines += _shared("Pre-training", "pretraining", measured)
        lines += _shared("Fine-tuning", "finetuning", measured)
        lines += _shared("Checkpoint selection", "selection", measured)
        lines += [text for mark, text in WARNINGS if any(mark in e.selection for e in measured)]
        if any(entry.leaks_dropped for entry in measured):
            lines += _shared(LEAKS, "leaks_dropped", measured)
        if any(entry.leaks_known for entry in measured):
            lines.append(_by_dataset(sheet, LEAKS_KEPT, "leaks_kept", measured))
        if any(entry.classes for entry in measured):
            lines.append(_by_dataset(sheet, CLASSES, "classes", measured))
        if any(entry.small_batches for entry in measured):
            lines += _shared(SMALL_BATCHES, "small_batches", measured)
        if any(entry.rescored for entry in measured):
            lines += _shared(RESCORED, "rescored", measured, show=_first)
        if any("_R" in entry.metric for entry in measured):
            lines += _shared("Rank of a tie", "tie_rule", measured)
            lines += _ties(sheet, measured)
        lines += [f"{name}: {text}." for name, text in EXTRAS.items() if _shows(sheet, name)]
    lines += _missing(sheet, entries)
    lines.append(f"{NO_REFERENCE}: the paper prints no number, or there is nothing to compare.")
    lines += _oddities(sheet, entries, paper)
    lines += cost_notes(sheet, costs)
    lines += sheet.footers
    lines.append(f"Numbers of code version {CODE_VERSION}.")
    return lines


def made_with(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split footers into those on the model behind the numbers, and all others."""
    made = [line for line in lines if line.startswith(MADE_WITH)]
    return made, [line for line in lines if line not in made]


def _units(sheet: Sheet) -> str:
    notes = dict.fromkeys(metric_of(column.metric).note for column in sheet.columns)
    return f"Units: {'; '.join(notes)}."


def _folds(measured: list[Entry]) -> list[str]:
    if all(entry.folds == 1 for entry in measured):
        return []
    return [
        "Folds: each is a run of its own; a number is their "
        "mean ± the sample standard deviation over them (mean over seeds), which tells how much "
        "the folds differ: a verdict counts the spread over seeds alone."
    ]


def _summary(entries: list[Entry], measured: list[Entry]) -> str:
    wanted = [
        e
        for e in entries
        if e.kind == "ours"
        and e.paper is not None
        and e.verdict not in (OTHER_GALLERY, OTHER_PROTOCOL)
    ]
    # A mean of differences to other data or models is meaningless.
    compared = [
        e.difference
        for e in measured
        if e.difference is not None
        and e.verdict != NOT_COMPARABLE
        and metric_of(e.metric).in_points
    ]
    own = [e for e in entries if e.kind == "ours"]
    there = sum(e.ours is not None for e in wanted)
    text = (
        f"{len(measured)} of {len(own)} numbers of ours are there; {len(wanted)} have a number of "
        "the paper beside them" + (f", of which {there} are there" if there < len(wanted) else "")
    )
    if not compared:
        return f"{text}."
    bias = sum(compared) / len(compared)
    size = sum(map(abs, compared)) / len(compared)
    return (
        f"{text}; mean difference {signed(bias)}, mean size of a difference {size:.1f} "
        "(without ranks)."
    )


def _data(sheet: Sheet, measured: list[Entry]) -> list[str]:
    lines = {}
    for e in measured:
        ids = " ".join(digest[:12] for digest in e.ids_sha256.split())
        size = e.gallery_size
        key = (e.dataset, e.gallery, e.protocol, e.data_version, ids, size)
        shared = f", {e.same_video} of them share a video with another one" if e.same_video else ""
        gallery = "all clips" if e.gallery == "all" else "clips with sound"
        lines[key] = (
            f"Data: {sheet.dataset_label(e.dataset)}, protocol {e.protocol}, {gallery}: version "
            f"{e.data_version}, N = {size}{shared}, ids sha256 {ids}."
        )
    return list(lines.values())


def _shared(
    name: str, field: str, measured: list[Entry], show: Callable[[str], str] = str
) -> list[str]:
    values: dict[str, list[str]] = {}
    for entry in measured:
        value = show(getattr(entry, field)) or "none"
        values.setdefault(value, []).append(entry.label)
    if len(values) == 1:
        return [f"{name}: {next(iter(values))}."]
    parts = [f"{value} ({', '.join(dict.fromkeys(rows))})" for value, rows in values.items()]
    return [f"{name}: {'; '.join(parts)}."]


def _by_dataset(sheet: Sheet, name: str, field: str, measured: list[Entry]) -> str:
    """List, by dataset, the texts of a field of entries, and their rows if not all have them."""
    rows: dict[str, dict[str, list[str]]] = {}
    for entry in measured:
        texts = rows.setdefault(entry.dataset, {})
        texts.setdefault(getattr(entry, field) or "", []).append(entry.label)
    parts = [
        f"{sheet.dataset_label(dataset)} {text}"
        + (f" ({', '.join(dict.fromkeys(labels))})" if len(texts) > 1 else "")
        for dataset, texts in rows.items()
        for text, labels in texts.items()
        if text
    ]
    return f"{name}: {'; '.join(parts)}."


def _ties(sheet: Sheet, measured: list[Entry]) -> list[str]:
    """List the numbers that depend on ties, from all lost to all won."""
    open_ = []
    for e in measured:
        if e.pessimistic is not None and e.optimistic is not None:
            least, most = number(e.pessimistic, e.metric), number(e.optimistic, e.metric)
            place = f"{sheet.dataset_label(e.dataset)} {sheet.column_label(e.dataset, e.column)}"
            open_ += [f"{e.label} on {place} {least} to {most}"] if least != most else []
    return [f"All ties lost to all won: {'; '.join(open_)}."] if open_ else []


def _first(count: str) -> str:
    return f"the first {count}" if count else ""


def _shows(sheet: Sheet, extra: str) -> bool:
    metrics = [c.metric for c in sheet.columns]
    metrics += [metric for row in sheet.rows for metric in row.metrics.values()]
    return any(_rule(metric) == extra for metric in metrics)


def _rule(metric: str) -> str:
    """Return the rule of an extra as `EXTRAS` names it; of other metrics, nothing that it names."""
    rule, _, name = metric.partition("/")
    return TIED_PLACES if rule == "released" and name.startswith(("a2v", "v2a")) else rule


def _missing(sheet: Sheet, entries: list[Entry]) -> list[str]:
    """List why numbers of ours are missing or not judged."""
    mine = [entry for entry in entries if entry.kind == "ours"]
    reasons: dict[str, list[Entry]] = {}
    for entry in mine:
        open_ = entry.ours is None or entry.verdict in ("partial", OTHER_PROTOCOL)
        open_ |= entry.verdict == NOT_COMPARABLE and sheet.comparable  # else the note says why
        if open_ and entry.reason:
            reason = entry.reason
            if entry.ours is None and reason.startswith("waiting for"):
                reason = "its runs have not ended (`clip4vla runs ls` names them)"
            reasons.setdefault(f"{entry.verdict}, {reason}", []).append(entry)
    return [
        f"{_upper(why)}: {place}."
        for why, affected in reasons.items()
        for place in _places(sheet, affected, mine, "every row of ours")
    ]


def _oddities(sheet: Sheet, entries: list[Entry], paper: list[Published]) -> list[str]:
    """List the notes of paper.tsv on the numbers shown.

    A note's parts are separated by semicolons. A part that several numbers share is printed once
    for all of them, and parts of the same numbers stay together.
    """
    shown = [number for number in paper if number.table in sheet.paper_tables]
    notes = {(n.row, n.dataset, n.metric): n for n in shown if n.note}
    in_paper = {c.dataset: c.paper_dataset or c.dataset for c in sheet.columns}
    printed = [entry for entry in entries if entry.paper is not None or entry.unavailable]
    parts: dict[tuple[str, str], list[Entry]] = {}
    for entry in printed:
        note = notes.get((entry.row, in_paper[entry.dataset], entry.metric))
        if note is not None:
            for part in note.note.split("; "):
                parts.setdefault((note.source, part), []).append(entry)
    lines: dict[str, list[str]] = {}
    for (source, part), noted in parts.items():
        for place in _places(sheet, noted, printed, "every row"):
            lines.setdefault(f"{source} ({place})", []).append(part)
    return [f"{where}: {'; '.join(notes)}." for where, notes in lines.items()]


def _places(sheet: Sheet, entries: list[Entry], among: list[Entry], every_row: str) -> list[str]:
    """Return the places of entries, as `ROW; ROW on DATASET`, with columns unless all are meant."""
    rows: dict[tuple[str, str], dict[str, str]] = {}  # (dataset, its columns) -> row -> label
    for row, dataset in dict.fromkeys((entry.row, entry.dataset) for entry in entries):
        some, every = (
            {e.column: e.label for e in of if (e.row, e.dataset) == (row, dataset)}
            for of in (entries, among)
        )
        names = [sheet.column_label(dataset, column) for column in some]
        columns = ", ".join(names) if len(some) < len(every) else ""
        rows.setdefault((dataset, columns), {})[row] = next(iter(some.values()))
    places: dict[str, list[str]] = {}
    for (dataset, columns), labels in rows.items():
        all_of_them = len(labels) > 2 and labels.keys() == {
            e.row for e in among if e.dataset == dataset
        }
        text = every_row if all_of_them else "; ".join(labels.values())
        places.setdefault(text, []).append(f"{sheet.dataset_label(dataset)} {columns}".strip())
    return [f"{text} on {', '.join(where)}" for text, where in places.items()]


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]

"""Comparison of ours with the paper, number by number: mean, spread, difference and verdict.

A verdict speaks of performance: for ranks (MedR, MeanR) a smaller number is `above` the paper.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from statistics import mean, stdev
from typing import Any

import pandas as pd

from clip4vla.config.data import reads_test_captions
from clip4vla.config.metrics import metric_of
from clip4vla.results.made_with import other_pretraining
from clip4vla.results.paper import NOT_AVAILABLE, Published
from clip4vla.results.sheet import Sheet, SheetCell, SheetColumn, SheetRow
from clip4vla.results.tidy import UNKNOWN

TOLERANCE = 1.0  # points; reruns of one recipe move by 1-3 points
PAPER_ONLY = "paper only"
NOT_RUN = "not run"
NO_DATA = "not run (no data)"
OTHER_GALLERY = "other gallery"
NOT_COMPARABLE = "not comparable"
OTHER_PROTOCOL = "other protocol"
NO_REFERENCE = "—"
SAME_DIRECTION = (("t2v", "t2a"), ("v2t", "a2t"))  # of retrieval; audio-only rows have the second
NO_NUMBER = "no number in the paper"


@dataclass(frozen=True)
class Entry:
    """One metric of one row on one dataset and gallery: ours and the paper's."""

    table: str
    row: str
    label: str
    kind: str  # ours | paper
    dataset: str
    gallery: str
    column: str  # metric of the column that the number is printed in
    metric: str  # metric of the number itself, which the row may replace
    ours: float | None = None  # mean over seeds
    sd: float | None = None  # sample standard deviation over seeds; None for one seed
    seeds: int = 0  # seeds with a number
    seeds_planned: int = 0
    folds: int = 1  # evaluations behind one seed, of which it is the mean
    fold_sd: float | None = None  # sample standard deviation over folds, mean over seeds
    seeded: bool = True
    paper: float | None = None
    difference: float | None = None  # ours - paper
    verdict: str = PAPER_ONLY
    reason: str = ""
    low: float | None = None  # interval over draws of clips, of a single run
    high: float | None = None
    pessimistic: float | None = None  # all ties lost, all ties won: means over seeds,
    optimistic: float | None = None  # None where ties make no difference
    protocol: str = ""
    queries: str = ""  # counts of one seed (folds added up); a-b where seeds differ
    gallery_size: str = ""
    expected: str = ""
    scored: str = ""
    silent: str = ""
    policy: str = ""
    variant: str = ""
    selection: str = ""
    leaks_dropped: str = ""
    leaks_kept: str = ""
    classes: str = ""  # that count in mAP; empty for other metrics
    small_batches: str = ""
    tie_rule: str = ""
    model: str = ""
    weights: str = ""
    pretraining: str = ""
    finetuning: str = ""
    data_version: str = ""
    ids_sha256: str = ""
    run_keys: str = ""
    same_video: str = ""  # clips of a video of another clip of the gallery; empty: not counted
    rescored: str = ""  # first candidates of each query that a second score ranks; empty: none
    unavailable: bool = False  # the paper's number exists, but is not available to us

    @property
    def leaks_known(self) -> bool:
        """Return whether it is known how many scored clips pre-training has seen."""
        return self.leaks_kept not in ("", UNKNOWN)


@dataclass(frozen=True)
class Caveats:
    """Facts about the runs behind an entry that decide whether it gets a verdict."""

    lacking: str = ""  # test clips or captions that are missing
    training_lacks: str = ""  # training clips that are missing
    unlike: str = ""  # differences of the model from the paper's
    readers: str = ""  # of the scored clips


Numbers = dict[tuple[str, str, str], Published]  # by row, dataset and metric
Line = Mapping[str, Any]  # of tidy.csv, with None where it is empty
Scores = Mapping[tuple[str, ...], list[Line]]  # by the columns PLACE
PLACE = ("row", "dataset", "gallery", "variant", "metric")


def compare(sheet: Sheet, tidy: pd.DataFrame, paper: list[Published]) -> list[Entry]:
    """Return all entries of a table, in the order of its rows; the paper's baselines come first."""
    published = {(n.row, n.dataset, n.metric): n for n in paper if n.table in sheet.paper_tables}
    listed = {row.row for row in sheet.rows}
    labels = {n.row: n.label for n in published.values() if n.row not in listed}
    baselines = [SheetRow(row=row, label=label, kind="paper") for row, label in labels.items()]
    scores = _scores(sheet, tidy)
    entries = []
    for row in [*baselines, *sheet.rows]:
        own = [
            entry
            for column in sheet.columns
            for entry in _column_entries(sheet, row, column, scores, published)
        ]
        if row.row in listed or any(e.paper is not None or e.unavailable for e in own):
            entries.extend(own)
    return entries


def as_frame(entries: list[Entry]) -> pd.DataFrame:
    """Return entries as a frame, one line each (the CSV view of a table).

    Only where a number has them: `leaks_kept`, `same_video`, `classes`, `rescored`, `unavailable`.
    """
    known = {
        "leaks_kept": any(entry.leaks_known for entry in entries),
        "same_video": any(entry.same_video for entry in entries),
        "classes": any(entry.classes for entry in entries),
        "rescored": any(entry.rescored for entry in entries),
        "unavailable": any(entry.unavailable for entry in entries),
    }
    columns = [field.name for field in fields(Entry) if known.get(field.name, True)]
    return pd.DataFrame([asdict(entry) for entry in entries], columns=columns)


def _scores(sheet: Sheet, tidy: pd.DataFrame) -> Scores:
    """Return the lines of the metrics that a table prints."""
    printed = {column.metric for column in sheet.columns}
    printed |= {metric for row in sheet.rows for metric in row.metrics.values()}
    own = tidy[(tidy.table == sheet.table) & tidy.metric.isin(printed)].astype(object)
    scores: dict[tuple[str, ...], list[Line]] = {}
    for line in own.where(own.notna(), None).to_dict("records"):
        scores.setdefault(tuple(line[name] for name in PLACE), []).append(line)
    return scores


def _column_entries(
    sheet: Sheet, row: SheetRow, column: SheetColumn, scores: Scores, published: Numbers
) -> list[Entry]:
    cells = [cell for cell in row.cells if cell.dataset == column.dataset]
    galleries = list(dict.fromkeys(cell.gallery for cell in cells)) or ["all"]
    metric = row.metrics.get(column.metric, column.metric)
    dataset = column.paper_dataset or column.dataset
    number = published.get((row.row, dataset, metric)) or _any_name(row, dataset, column, published)
    entries = []
    for gallery in galleries:
        entry = Entry(
            table=sheet.table,
            row=row.row,
            label=row.label,
            kind=row.kind,
            dataset=column.dataset,
            gallery=gallery,
            column=column.metric,
            metric=number.metric if row.kind == "paper" and number else metric,
            paper=number.value if number else None,
            unavailable=number is not None and number.value is None,
        )
        if row.kind == "ours":
            mine = [cell for cell in cells if cell.gallery == gallery]
            entry, caveats = _measured(entry, row, mine, scores)
            unlike = _unlike(sheet, entry, caveats, number, dataset)
            # The paper has one gallery: the row's first. Another one is shown, never compared.
            entry = _judged(
                entry,
                replace(caveats, unlike=unlike),
                number.protocol if number else "",
                first=gallery == galleries[0],
            )
        entries.append(entry)
    return entries


def _unlike(
    sheet: Sheet, entry: Entry, caveats: Caveats, number: Published | None, dataset: str
) -> str:
    """Return why a number of ours cannot be judged by the paper's, or ""."""
    if not sheet.comparable:
        return "other data or other towers than the paper's: see the note"
    if number and caveats.readers not in ("", dataset):
        return f"clips are of {caveats.readers}, the paper's of {dataset}"
    if any(map(reads_test_captions, entry.policy.split())):
        return "donors of sound were chosen by the test captions"
    if number and not caveats.unlike:
        return other_pretraining(number.row, entry.pretraining)
    return caveats.unlike


def _any_name(
    row: SheetRow, dataset: str, column: SheetColumn, published: Numbers
) -> Published | None:
    """Return a baseline's score in a column that audio-only and other baselines share."""
    way, _, measure = column.metric.partition("_")
    for ways in SAME_DIRECTION:
        for other in ways if row.kind == "paper" and way in ways else ():
            if (row.row, dataset, f"{other}_{measure}") in published:
                return published[row.row, dataset, f"{other}_{measure}"]
    return None


def _measured(
    entry: Entry, row: SheetRow, cells: list[SheetCell], scored: Scores
) -> tuple[Entry, Caveats]:
    """Return an entry with mean and spread over seeds; a seed counts once all its folds ended."""
    # Without training no seed enters and all seeds share one run, which counts once.
    once = {cell.run_key or cell: cell for cell in reversed(cells)}
    repeated = len(once) < len(cells)
    cells = [cell for cell in cells if once[cell.run_key or cell] is cell]
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    refused = next((cell.no_data for cell in cells if cell.no_data), row.no_data)
    if all(cell.no_data for cell in cells) and refused:
        entry = replace(entry, verdict=NO_DATA, reason=refused, seeds_planned=len(seeds))
        return entry, Caveats()
    if not cells:
        return replace(entry, verdict=NOT_RUN, reason="not in the plan"), Caveats()
    scores: list[float] = []
    spreads: list[float] = []
    lines: list[list[Line]] = []
    missing: list[str] = []
    first = cells[0]
    place = (row.row, first.dataset, first.gallery, first.variant, entry.metric)
    there = {(line["seed"], line["run_key"]): line for line in scored.get(place, [])}
    for seed in seeds:
        keys = [cell.run_key for cell in cells if cell.seed == seed]
        own = [there[seed, key] for key in keys if (seed, key) in there]
        missing += [key or "no data" for key in keys if (seed, key) not in there]
        if len(own) == len(keys):
            values = [line["value"] for line in own]
            scores.append(mean(values))
            spreads += [stdev(values)] if len(values) > 1 else []
            lines.append(own)
    waiting = f"waiting for {', '.join(sorted(missing))}" if missing else ""
    if not scores:
        entry = replace(entry, verdict=NOT_RUN, reason=waiting, seeds_planned=len(seeds))
        return entry, Caveats()
    if len({frozenset(line["ids_sha256"] for line in own) for own in lines}) > 1:
        differing = sorted({line["run_key"] for own in lines for line in own})
        reason = f"seeds were scored on different clips: {', '.join(differing)}"
        entry = replace(entry, verdict=NOT_RUN, reason=reason, seeds_planned=len(seeds))
        return entry, Caveats()
    low, high = _interval(lines)
    pessimistic, optimistic = _bounds(lines)
    entry = replace(
        entry,
        ours=mean(scores),
        sd=stdev(scores) if len(scores) > 1 else None,
        seeds=len(scores),
        seeds_planned=len(seeds),
        folds=len(lines[0]),
        fold_sd=mean(spreads) if spreads else None,
        seeded=seeds != [None] and not repeated,
        reason=waiting,
        low=low,
        high=high,
        pessimistic=pessimistic,
        optimistic=optimistic,
    )
    return _with_counts(entry, lines), _caveats([line for own in lines for line in own])


def _interval(lines: list[list[Line]]) -> tuple[float, float] | tuple[None, None]:
    """Return the interval of a single run; `sd` shows the spread over seeds and folds instead."""
    if len(lines) > 1 or len(lines[0]) > 1 or lines[0][0]["low"] is None:
        return None, None
    return lines[0][0]["low"], lines[0][0]["high"]


def _bounds(lines: list[list[Line]]) -> tuple[float, float] | tuple[None, None]:
    """Return means over seeds with all ties lost and all won, where these differ."""
    pessimistic, optimistic = (
        mean(mean(line[name] for line in own) for own in lines)
        for name in ("pessimistic", "optimistic")
    )
    return (pessimistic, optimistic) if pessimistic != optimistic else (None, None)


def _with_counts(entry: Entry, lines: list[list[Line]]) -> Entry:
    def span(column: str) -> str:
        counts = [[line[column] for line in own] for own in lines]
        sums = [sum(own) for own in counts if None not in own]
        if not sums:
            return ""
        return str(sums[0]) if len(set(sums)) == 1 else f"{min(sums)}-{max(sums)}"

    every = [line for own in lines for line in own]
    return replace(
        entry,
        protocol=_listed(every, "protocol"),
        queries=span("n_queries"),
        gallery_size=span("n_gallery"),
        expected=span("n_expected"),
        scored=span("n_scored"),
        silent=span("n_silent"),
        policy=_listed(every, "policy"),
        variant=_listed(every, "variant"),
        selection=_listed(every, "selection"),
        leaks_dropped=_listed(every, "n_leaks_dropped"),
        leaks_kept=_listed(every, "leaks_kept", "; "),
        classes=_listed(every, "classes", "; "),
        small_batches=_listed(every, "small_batches", "; "),
        tie_rule=_listed(every, "tie_rule"),
        model=_listed(every, "model", "; "),
        weights=_listed(every, "weights", "; "),
        pretraining=_listed(every, "pretraining", "; "),
        finetuning=_listed(every, "finetuning", "; "),
        data_version=_listed(every, "data_version"),
        ids_sha256=_listed(every, "ids_sha256"),
        run_keys=_listed(every, "run_key"),
        same_video=span("n_same_video"),
        rescored=_listed(every, "n_rescored"),
    )


def _caveats(lines: list[Line]) -> Caveats:
    return Caveats(
        lacking=_lacking(lines),
        training_lacks=_listed(lines, "training_lacks", "; "),
        unlike=_listed(lines, "unlike_paper", "; ") or _undeclared(lines),
        readers=_listed(lines, "reader"),
    )


def _listed(lines: list[Line], column: str, separator: str = " ") -> str:
    return separator.join(sorted({str(line[column]) for line in lines if line[column] is not None}))


def _lacking(lines: list[Line]) -> str:
    """Describe missing clips of the official split, or missing captions of its clips."""
    declared = [line for line in lines if None not in (line["n_usable"], line["n_expected"])]
    clips = [line for line in declared if line["n_usable"] != line["n_expected"]]
    if clips:
        worst = min(clips, key=lambda line: line["n_usable"] / line["n_expected"])
        return f"{worst['n_usable']} of {worst['n_expected']} official clips"
    for line in lines:
        wanted = line["n_captions"] and line["n_gallery"] * line["n_captions"]
        if wanted is not None and line["n_queries"] < wanted:
            return f"{line['n_queries']} captions instead of {line['n_captions']} for each clip"
    return ""


def _undeclared(lines: list[Line]) -> str:
    unknown = any(line["n_expected"] is None for line in lines)
    return "no official number of clips is declared for the split" if unknown else ""


def _judged(entry: Entry, caveats: Caveats, protocol: str, *, first: bool) -> Entry:
    """Return a measured entry with its difference and verdict; others keep their verdict.

    protocol: of the paper's number.
    """
    ours, paper, waiting = entry.ours, entry.paper, entry.reason
    if ours is None:
        return entry
    difference = None if paper is None or not first else ours - paper
    if difference is not None and caveats.unlike:
        reason = "; ".join(part for part in (caveats.unlike, waiting) if part)
        return replace(entry, verdict=NOT_COMPARABLE, difference=difference, reason=reason)
    if waiting:
        return replace(entry, verdict="partial", difference=difference)
    if not first:
        reason = "not the gallery compared with the paper"
        return replace(entry, verdict=OTHER_GALLERY, reason=reason)
    if difference is None:
        verdict = "partial" if caveats.lacking else NO_REFERENCE
        absent = f"the paper's number is {NOT_AVAILABLE}" if entry.unavailable else NO_NUMBER
        return replace(entry, verdict=verdict, reason=caveats.lacking or absent)
    if _base(entry.protocol) != _base(protocol):
        reason = f"ours is {entry.protocol}, the paper's {protocol}"
        return replace(entry, verdict=OTHER_PROTOCOL, reason=reason)
    if lacking := "; ".join(filter(None, (caveats.lacking, caveats.training_lacks))):
        return replace(entry, verdict="partial", difference=difference, reason=lacking)
    allowed = max(2 * (entry.sd or 0.0), TOLERANCE)
    if abs(difference) <= allowed + 1e-9:
        return replace(entry, verdict="within", difference=difference)
    better = metric_of(entry.metric).better(ours, than=ours - difference)
    return replace(entry, verdict="above" if better else "below", difference=difference)


def _base(protocol: str) -> str:
    """Return a protocol without its gallery, which the table chooses and states."""
    return protocol.removesuffix("-sound")

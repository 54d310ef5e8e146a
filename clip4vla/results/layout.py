"""Layout of a table as lines of text cells, before any markup; all formats are made from it.

Each row of a sheet becomes up to four lines: the paper's numbers, ours, the difference and the
verdict, so that numbers to compare are in one column.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clip4vla.results.compare import NO_REFERENCE, Entry
from clip4vla.results.cost import Cost
from clip4vla.results.footers import footers
from clip4vla.results.order import order_cell, orders
from clip4vla.results.paper import NOT_AVAILABLE, Published
from clip4vla.results.pretraining import COLUMNS, DATASET, cost_cells, cost_entries
from clip4vla.results.sheet import Sheet
from clip4vla.results.text import number, one_line, signed

COUNTS = "queries × clips; scored/expected"
ORDER = "(order)"  # in place of a row's name, which has no brackets


@dataclass(frozen=True)
class Line:
    """One printed line of a row, with a text for every column."""

    row: str
    label: str  # printed once per row
    source: str  # paper | ours | difference | verdict
    suffix: str  # gallery where a row has two, and seeds
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A table in plain text."""

    name: str
    title: str
    caption: str
    note: str
    groups: tuple[tuple[str, int], ...]  # (dataset, its number of columns)
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    footers: tuple[str, ...]


def build_grid(
    sheet: Sheet,
    entries: list[Entry],
    paper: list[Published],
    costs: dict[str, Cost] | None = None,
) -> Grid:
    """Lay out a table. Every cell has a text: a number, a reason, or an em dash."""
    costs = costs or {}
    took = cost_entries(sheet, paper, costs)
    groups = [(sheet.dataset_label(DATASET), len(COLUMNS))] if sheet.costs else []
    headings = list(COLUMNS.values()) if sheet.costs else []
    for dataset in sheet.datasets():
        labels = [column.label for column in sheet.columns if column.dataset == dataset]
        if counted(entries, dataset):
            labels.append(COUNTS)
        groups.append((sheet.dataset_label(dataset), len(labels)))
        headings.extend(labels)
    lines: list[Line] = []
    for row in dict.fromkeys(entry.row for entry in entries):
        own = [e for e in entries if e.row == row]
        lines.extend(_row_lines(sheet, entries, own, [e for e in took if e.row == row]))
    lines.extend(_order_line(sheet, entries))
    return Grid(
        name=sheet.table,
        title=one_line(sheet.title),
        caption=one_line(sheet.caption),
        note=one_line(sheet.note),
        groups=tuple(groups),
        headings=tuple(headings),
        lines=tuple(lines),
        footers=tuple(map(one_line, footers(sheet, entries, paper, costs))),
    )


def measured(entry: Entry) -> str:
    """Return ours as mean ± sd (over folds if any, else over seeds), or why it is missing."""
    if entry.ours is None:
        return entry.verdict
    sd = entry.sd if entry.fold_sd is None else entry.fold_sd
    spread = "" if sd is None else f" ± {sd:.1f}"
    return f"{number(entry.ours, entry.metric)}{spread}"


def seeds(entry: Entry) -> str:
    """Return the number of seeds behind a number, and of folds per seed."""
    folds = f"{entry.folds} folds" if entry.folds > 1 else ""
    if not entry.seeded:
        return folds or "1 run"
    text = f"{entry.seeds} seed{'s' if entry.seeds != 1 else ''}"
    return f"{text} × {folds}" if folds else text


def counts(entry: Entry) -> str:
    """Return the N behind a number: queries × clips; scored/expected clips; silent ones."""
    if entry.ours is None:
        return NO_REFERENCE
    same = entry.queries == entry.gallery_size
    size = entry.queries if same else f"{entry.queries} × {entry.gallery_size}"
    return f"{size}; {entry.scored}/{entry.expected or '?'}; {entry.silent} silent"


def _measured_with_seeds(entry: Entry) -> str:
    return measured(entry) + (f" ({seeds(entry)})" if entry.ours is not None else "")


def counted(entries: list[Entry], dataset: str) -> bool:
    """Return whether a table has a column of counts for a dataset."""
    return any(entry.ours is not None for entry in entries if entry.dataset == dataset)


def _galleries(entries: list[Entry], dataset: str) -> set[str]:
    return {e.gallery for e in entries if e.dataset == dataset and e.kind == "ours"}


def _order_line(sheet: Sheet, entries: list[Entry]) -> list[Line]:
    """Return the last line, on the order of rows, where two of them can be compared."""
    checked = orders(sheet, entries)
    cells = list(cost_cells([], "verdict")) if sheet.costs else []
    for dataset in sheet.datasets():
        columns = [c.metric for c in sheet.columns if c.dataset == dataset]
        cells += [order_cell(checked.get((dataset, metric))) for metric in columns]
        cells += [NO_REFERENCE] if counted(entries, dataset) else []
    return [Line(ORDER, "All rows", "verdict", "", tuple(cells))] if checked else []


def _row_lines(
    sheet: Sheet, every: list[Entry], entries: list[Entry], took: list[Entry]
) -> list[Line]:
    first = entries[0]
    primary: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        primary.setdefault((entry.dataset, entry.column), entry)
    # Line n shows the n-th gallery of each dataset; it names its gallery only where some dataset of
    # the table has two.
    ranked: dict[str, list[str]] = {}
    for entry in entries:
        if entry.gallery not in ranked.setdefault(entry.dataset, []):
            ranked[entry.dataset].append(entry.gallery)
    several = any(len(_galleries(every, dataset)) > 1 for dataset in sheet.datasets())

    def line(
        source: str,
        pick: Mapping[tuple[str, str], Entry],
        text: Callable[[Entry], str],
        count: Callable[[Entry], str] = lambda entry: NO_REFERENCE,
        suffix: str = "",
    ) -> Line:
        cells = list(cost_cells(took, source)) if sheet.costs else []
        for dataset in sheet.datasets():
            last = None
            for column in [c for c in sheet.columns if c.dataset == dataset]:
                last = pick.get((dataset, column.metric))
                cells.append(text(last) if last else NO_REFERENCE)
            if counted(every, dataset):
                cells.append(count(last) if last else NO_REFERENCE)
        return Line(first.row, first.label, source, suffix, tuple(cells))

    def reference(entry: Entry) -> str:
        if entry.unavailable:
            return NOT_AVAILABLE
        return NO_REFERENCE if entry.paper is None else number(entry.paper, entry.metric)

    def difference(entry: Entry) -> str:
        return NO_REFERENCE if entry.difference is None else signed(entry.difference)

    lines = []
    known = (entry.paper is not None or entry.unavailable for entry in primary.values())
    if first.kind == "paper" or any(known):
        lines.append(line("paper", primary, reference))
    if first.kind == "paper":
        return lines
    for index in range(max(map(len, ranked.values()))):
        of = {name: shown[index] for name, shown in ranked.items() if index < len(shown)}
        pick = {(e.dataset, e.column): e for e in entries if e.gallery == of.get(e.dataset)}
        names = dict.fromkeys(gallery.replace("_", " ") for gallery in of.values())
        suffix = ["; ".join(names)] if several else []
        behind = list(dict.fromkeys(seeds(e) for e in pick.values() if e.ours is not None))
        # The number of seeds is printed once if it is the same for the whole line.
        text = measured if len(behind) < 2 else _measured_with_seeds
        suffix += behind if len(behind) == 1 else []
        lines.append(line("ours", pick, text, counts, ", ".join(suffix)))
    if any(entry.ours is not None for entry in primary.values()):
        if any(entry.difference is not None for entry in primary.values()):
            lines.append(line("difference", primary, difference))
        if any(entry.verdict != NO_REFERENCE for entry in primary.values()):
            lines.append(line("verdict", primary, lambda entry: entry.verdict))
    return lines

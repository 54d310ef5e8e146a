"""Tables as the page shows them: ours, the paper's number and the verdict in one cell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from clip4vla.results.compare import NO_REFERENCE, Entry
from clip4vla.results.layout import COUNTS, counted, counts, measured, seeds
from clip4vla.results.order import order_cell, orders
from clip4vla.results.paper import NOT_AVAILABLE
from clip4vla.results.pretraining import COLUMNS, DATASET, cost_cells
from clip4vla.results.sheet import Sheet
from clip4vla.results.text import number, signed

MOST = 9  # columns of one table; datasets of a wider one have a table each
LOOKS = {"within": "good", "above": "good", "below": "bad", "partial": "some", "not run": "none"}
Link = Callable[[str, str], str]  # (row, dataset) -> address of the runs behind it; "": no link


@dataclass(frozen=True)
class Cell:
    """A number of ours with what it is compared with, or a number of the paper."""

    text: str
    value: float | None = None  # by which rows are sorted
    paper: str = ""
    difference: str = ""
    verdict: str = ""
    tip: str = ""
    link: str = ""

    @property
    def look(self) -> str:
        """Return the class of the verdict."""
        return LOOKS.get(self.verdict, "none")


@dataclass(frozen=True)
class Row:
    """A row of the table, on one gallery."""

    label: str
    below: str  # gallery and seeds
    source: str  # ours | paper
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """A column: its heading, and the heading of its group, a dataset."""

    group: str
    heading: str


@dataclass(frozen=True)
class Table:
    """A table, or the part of it for some datasets."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    last: tuple[str, ...] = ()  # cells of the line on the order of rows; (): no such line

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Return the headings of groups, with their numbers of columns."""
        sizes: dict[str, int] = {}
        for column in self.columns:
            sizes[column.group] = sizes.get(column.group, 0) + 1
        return list(sizes.items())


@dataclass(frozen=True)
class _Line:
    """A line of the table: a row, and which of its galleries it shows."""

    row: str
    label: str
    kind: str
    nth: int


@dataclass(frozen=True)
class _Part:
    """The columns of one dataset, or of costs, with the cells of every line."""

    columns: list[Column]
    cells: list[list[Cell]]
    below: list[str]
    last: list[str]


def tables_of(sheet: Sheet, entries: Sequence[Entry], link: Link = lambda *_: "") -> list[Table]:
    """Return a table in one part, or in one for each dataset where it has many columns.

    entries: with those of costs.
    """
    took = [entry for entry in entries if entry.dataset == DATASET]
    scored = [entry for entry in entries if entry.dataset != DATASET]
    lines = [
        _Line(row, own[0].label, own[0].kind, nth)
        for row, own in _by_row(entries).items()
        for nth in range(_galleries(own))
    ]
    parts = [_costs(sheet, took, lines)] if sheet.costs else []
    parts += [_scores(sheet, dataset, scored, lines, link) for dataset in sheet.datasets()]
    if sum(len(part.columns) for part in parts) > MOST:
        return [_without_empty(_joined(lines, [part])) for part in parts]
    return [_joined(lines, parts)]


def cell_of(entry: Entry, link: str = "") -> Cell:
    """Return the cell of an entry."""
    if entry.kind == "paper":
        if entry.unavailable:
            return Cell(NOT_AVAILABLE)
        text = NO_REFERENCE if entry.paper is None else number(entry.paper, entry.metric)
        return Cell(text, entry.paper)
    paper = NOT_AVAILABLE if entry.unavailable else ""
    if entry.paper is not None:
        paper = number(entry.paper, entry.metric)
    difference = "" if entry.difference is None else signed(entry.difference)
    tips = [entry.reason]
    if entry.ours is not None:
        tips += [seeds(entry), f"clips: {counts(entry)}", entry.protocol]
        if entry.low is not None and entry.high is not None:
            tips.append(f"95 % interval over clips {entry.low:.1f} to {entry.high:.1f}")
    verdict = "" if entry.ours is None or entry.verdict == NO_REFERENCE else entry.verdict
    tip = "; ".join(filter(None, tips))
    return Cell(measured(entry), entry.ours, paper, difference, verdict, tip, link)


def _by_row(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    rows: dict[str, list[Entry]] = {}
    for entry in entries:
        rows.setdefault(entry.row, []).append(entry)
    return rows


def _galleries(entries: list[Entry]) -> int:
    """Return the largest number of galleries that one dataset of a row has."""
    found: dict[str, set[str]] = {}
    for entry in entries:
        found.setdefault(entry.dataset, set()).add(entry.gallery)
    return max(map(len, found.values()))


def _scores(
    sheet: Sheet, dataset: str, entries: list[Entry], lines: list[_Line], link: Link
) -> _Part:
    """Return the columns of one dataset."""
    columns = [column for column in sheet.columns if column.dataset == dataset]
    names = [column.label for column in columns]
    with_counts = counted(entries, dataset)
    names += [COUNTS] if with_counts else []
    of_row = _by_row([entry for entry in entries if entry.dataset == dataset])
    several = len({entry.gallery for entry in entries if entry.kind == "ours"}) > 1
    cells, below = [], []
    for line in lines:
        own = of_row.get(line.row, [])
        gallery = dict(enumerate(dict.fromkeys(entry.gallery for entry in own))).get(line.nth)
        found = {entry.column: entry for entry in own if entry.gallery == gallery}
        address = link(line.row, dataset)
        shown = [found.get(column.metric) for column in columns]
        texts = [cell_of(entry, address) if entry else Cell(NO_REFERENCE) for entry in shown]
        last = next((entry for entry in reversed(shown) if entry and entry.ours is not None), None)
        if with_counts:
            texts.append(Cell(counts(last) if last else NO_REFERENCE))
        cells.append(texts)
        names_of = (
            [gallery.replace("_", " ")] if several and gallery and line.kind == "ours" else []
        )
        below.append(", ".join([*names_of, *([seeds(last)] if last else [])]))
    checked = orders(sheet, entries)
    order = [order_cell(checked.get((dataset, column.metric))) for column in columns]
    order += [NO_REFERENCE] if with_counts else []
    group = sheet.dataset_label(dataset)
    return _Part([Column(group, name) for name in names], cells, below, order if checked else [])


def _costs(sheet: Sheet, took: list[Entry], lines: list[_Line]) -> _Part:
    """Return the columns of pre-training costs, which have no verdict."""
    of_row = _by_row(took)
    cells = []
    for line in lines:
        own = of_row.get(line.row, []) if line.nth == 0 else []
        values = {entry.metric: entry for entry in own}
        texts = []
        theirs, mine = cost_cells(own, "paper"), cost_cells(own, "ours")
        for metric, paper, ours in zip(COLUMNS, theirs, mine, strict=True):
            entry = values.get(metric)
            if line.kind == "paper":
                texts.append(Cell(paper, entry.paper if entry else None))
            else:
                beside = "" if paper == NO_REFERENCE else paper
                texts.append(Cell(ours, entry.ours if entry else None, beside))
        cells.append(texts)
    group = sheet.dataset_label(DATASET)
    columns = [Column(group, heading) for heading in COLUMNS.values()]
    return _Part(columns, cells, [""] * len(lines), [])


def _joined(lines: list[_Line], parts: list[_Part]) -> Table:
    """Return parts side by side."""
    rows = []
    for index, line in enumerate(lines):
        below = ", ".join(dict.fromkeys(part.below[index] for part in parts if part.below[index]))
        cells = [cell for part in parts for cell in part.cells[index]]
        rows.append(Row(line.label, below, line.kind, tuple(cells)))
    last = [
        text for part in parts for text in (part.last or [NO_REFERENCE] * len(part.columns))
    ] * any(part.last for part in parts)
    return Table(
        tuple(column for part in parts for column in part.columns), tuple(rows), tuple(last)
    )


def _without_empty(table: Table) -> Table:
    """Return a table without rows that have nothing in it."""
    shown = [row for row in table.rows if any(cell.text != NO_REFERENCE for cell in row.cells)]
    return replace(table, rows=tuple(shown or table.rows))


def tally(entries: Sequence[Entry]) -> Mapping[str, int]:
    """Count the verdicts of our numbers, the most telling first."""
    order = ("within", "above", "below", "partial", "not comparable")
    found: dict[str, int] = {}
    for entry in entries:
        if entry.kind == "ours" and entry.dataset != DATASET:
            name = "no counterpart" if entry.verdict == NO_REFERENCE else entry.verdict
            found[name] = found.get(name, 0) + 1
    return {name: found[name] for name in sorted(found, key=lambda n: (n not in order, n))}

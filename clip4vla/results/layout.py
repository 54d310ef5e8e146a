"""A table as lines of text cells, before any markup: what every format of it shows.

Each row of a sheet becomes up to four lines under each other: the paper's numbers, ours, the
difference and the verdict. So numbers that belong together stand in one column.
"""

from dataclasses import dataclass

from clip4vla.results.compare import NO_REFERENCE, PAPER_ONLY, Entry
from clip4vla.results.footers import footers
from clip4vla.results.paper import Published
from clip4vla.results.sheet import Sheet
from clip4vla.results.text import number, signed

COUNTS = "queries × clips; scored/expected"


@dataclass(frozen=True)
class Line:
    """One printed line: which row it belongs to, what it holds, a text for every column."""

    row: str
    label: str  # printed once a row
    source: str  # paper | ours | difference | verdict
    suffix: str  # gallery where a row has two, and seeds
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A whole table in plain text."""

    name: str
    title: str
    caption: str
    note: str
    groups: tuple[tuple[str, int], ...]  # (dataset, its number of columns)
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    footers: tuple[str, ...]


def build_grid(sheet: Sheet, entries: list[Entry], paper: list[Published]) -> Grid:
    """Lay a table out. Every cell has a text: a number, a reason, or an em dash."""
    groups, headings = [], []
    for dataset in sheet.datasets():
        labels = [column.label for column in sheet.columns if column.dataset == dataset]
        if _counted(entries, dataset):
            labels.append(COUNTS)
        groups.append((sheet.dataset_label(dataset), len(labels)))
        headings.extend(labels)
    lines: list[Line] = []
    for row in dict.fromkeys(entry.row for entry in entries):
        lines.extend(_row_lines(sheet, entries, [e for e in entries if e.row == row]))
    return Grid(
        sheet.table,
        sheet.title,
        sheet.caption.strip(),
        sheet.note.strip(),
        tuple(groups),
        tuple(headings),
        tuple(lines),
        tuple(footers(sheet, entries, paper)),
    )


def measured(entry: Entry) -> str:
    """Ours: mean ± sd, or why there is none."""
    if entry.ours is None:
        return NO_REFERENCE if entry.verdict == PAPER_ONLY else entry.verdict
    spread = "" if entry.sd is None else f" ± {entry.sd:.1f}"
    return f"{number(entry.ours, entry.metric)}{spread}"


def seeds(entry: Entry) -> str:
    """How many seeds stand behind a number."""
    if not entry.seeded:
        return "1 run"
    return f"{entry.seeds} seed{'s' if entry.seeds != 1 else ''}"


def counts(entry: Entry) -> str:
    """The N behind a number: queries × clips; scored/expected clips; silent ones."""
    if entry.ours is None:
        return NO_REFERENCE
    same = entry.queries == entry.gallery_size
    size = entry.queries if same else f"{entry.queries} × {entry.gallery_size}"
    return f"{size}; {entry.scored}/{entry.expected or '?'}; {entry.silent} silent"


def _measured_with_seeds(entry: Entry) -> str:
    return measured(entry) + (f" ({seeds(entry)})" if entry.ours is not None else "")


def _counted(entries: list[Entry], dataset: str) -> bool:
    return any(entry.ours is not None for entry in entries if entry.dataset == dataset)


def _row_lines(sheet: Sheet, every: list[Entry], entries: list[Entry]) -> list[Line]:
    first = entries[0]
    primary = {}
    for entry in entries:
        primary.setdefault((entry.dataset, entry.column), entry)
    galleries = list(dict.fromkeys(entry.gallery for entry in entries))

    def line(source, pick, text, count=lambda entry: NO_REFERENCE, suffix="") -> Line:
        cells = []
        for dataset in sheet.datasets():
            last = None
            for column in [c for c in sheet.columns if c.dataset == dataset]:
                last = pick.get((dataset, column.metric))
                cells.append(text(last) if last else NO_REFERENCE)
            if _counted(every, dataset):
                cells.append(count(last) if last else NO_REFERENCE)
        return Line(first.row, first.label, source, suffix, tuple(cells))

    def reference(entry: Entry) -> str:
        return NO_REFERENCE if entry.paper is None else number(entry.paper, entry.metric)

    def difference(entry: Entry) -> str:
        return NO_REFERENCE if entry.difference is None else signed(entry.difference)

    def verdict(entry: Entry) -> str:
        return NO_REFERENCE if entry.verdict == PAPER_ONLY else entry.verdict

    lines = []
    if first.kind == "paper" or any(entry.paper is not None for entry in primary.values()):
        lines.append(line("paper", primary, reference))
    if first.kind == "paper":
        return lines
    for gallery in galleries:
        pick = {(e.dataset, e.column): e for e in entries if e.gallery == gallery}
        suffix = [] if len(galleries) == 1 else [gallery.replace("_", " ")]
        behind = list(dict.fromkeys(seeds(e) for e in pick.values() if e.ours is not None))
        # The number of seeds stands once where it is the same for the whole line.
        text = measured if len(behind) < 2 else _measured_with_seeds
        suffix += behind if len(behind) == 1 else []
        lines.append(line("ours", pick, text, counts, ", ".join(suffix)))
    if any(entry.ours is not None for entry in primary.values()):
        if any(entry.difference is not None for entry in primary.values()):
            lines.append(line("difference", primary, difference))
        lines.append(line("verdict", primary, verdict))
    return lines

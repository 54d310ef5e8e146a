"""Charts of the page: sizes as shares of their axis, drawn by `charts.html` for any width."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import pandas as pd
from matplotlib.ticker import MaxNLocator

from clip4vla.config.metrics import label_of, metric_of
from clip4vla.results.cells import Cell, Link, cell_of
from clip4vla.results.compare import NOT_COMPARABLE, TOLERANCE, Entry
from clip4vla.results.cost import Cost
from clip4vla.results.figures_cost import hours_by_row
from clip4vla.results.figures_data import is_headline, parts_of
from clip4vla.results.figures_sweep import AXES, bar_of
from clip4vla.results.sheet import Sheet

STEP = "step"  # name of an axis of whole numbers; page.js knows it
COLOURS = 8  # classes c0 to c7 of page.css
MOST_POINTS = 200  # of a line
WIDE, HIGH = 320, 190  # of a panel, in its own units
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 26  # margins of a panel


@dataclass(frozen=True)
class Bar:
    """Ours and the paper's number of a row; places in percent of the axis."""

    label: str
    cell: Cell
    ours: float | None
    paper: float | None
    low: float  # ends of the spread
    high: float


@dataclass(frozen=True)
class Bars:
    """Bars of one metric on one dataset. zero: where the axis has 0."""

    title: str
    zero: float
    bars: list[Bar]

    @property
    def with_paper(self) -> bool:
        """Return whether a number of the paper is drawn."""
        return any(bar.paper is not None for bar in self.bars)


@dataclass(frozen=True)
class Part:
    """A part of a stacked bar, in percent; text: its number."""

    name: str
    share: float
    text: str


@dataclass(frozen=True)
class Stack:
    """A bar of several parts, with the text behind it."""

    label: str
    parts: list[Part]
    total: str


@dataclass(frozen=True)
class Dot:
    """A difference to the paper; places in percent of the axis."""

    colour: int
    at: float
    low: float
    high: float
    tip: str


@dataclass(frozen=True)
class Dots:
    """Differences by row. band: ends of the range of `within`, in percent; ends: of the axis."""

    rows: list[tuple[str, list[Dot]]]
    measures: list[str]
    band: tuple[float, float]
    ends: tuple[str, str]
    left_out: int


@dataclass(frozen=True)
class Line:
    """A line of a panel. points: (x, y) in the panel's units; spans: (x, y low, y high)."""

    label: str
    colour: int
    dash: int
    points: list[tuple[float, float]]
    spans: list[tuple[float, float, float]]


@dataclass(frozen=True)
class Panel:
    """A panel of lines. ticks: (place, text); x, y: ends of the axes in values."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    x: tuple[float, float]
    y: tuple[float, float]
    below: str  # name of the x axis
    missing: str = ""


Series = tuple[str, Sequence[tuple[float, float, float, float]]]  # label, (x, y, y low, y high)


def bars(sheet: Sheet, entries: Iterable[Entry], link: Link) -> list[Bars]:
    """Return the bars of the first metric of each dataset that has numbers of ours."""
    charts = []
    entries = list(entries)
    for column in {c.dataset: c for c in reversed(sheet.columns)}.values():
        rows: dict[str, Entry] = {}
        for entry in entries:
            if (entry.dataset, entry.column) == (column.dataset, column.metric):
                rows.setdefault(entry.row, entry)
        if all(entry.ours is None for entry in rows.values()):
            continue
        ends = [0.0]
        for entry in rows.values():
            ends += [value for value in (*_span(entry), entry.paper) if value is not None]
        place = _axis(min(ends), max(ends))
        drawn = []
        for entry in rows.values():
            low, high = _span(entry)
            drawn.append(
                Bar(
                    label=entry.label,
                    cell=cell_of(entry, link(entry.row, entry.dataset)),
                    ours=None if entry.ours is None else place(entry.ours),
                    paper=None if entry.paper is None else place(entry.paper),
                    low=place(0.0 if low is None else low),
                    high=place(0.0 if high is None else high),
                )
            )
        title = f"{sheet.dataset_label(column.dataset)}, {column.label}"
        charts.append(Bars(title, place(0.0), drawn))
    return charts[::-1]


def differences(entries: Iterable[Entry]) -> Dots:
    """Return ours minus paper of all numbers that can be compared, in points."""
    points = [e for e in entries if e.difference is not None and metric_of(e.metric).in_points]
    shown = [e for e in points if e.verdict != NOT_COMPARABLE]
    measures = list(dict.fromkeys(label_of(e.metric) for e in shown))
    reach = [abs(e.difference or 0.0) + (e.sd or 0.0) for e in shown]
    end = 1.05 * max([2 * TOLERANCE, *reach])
    place = _axis(-end, end)
    rows: dict[str, list[Dot]] = {}
    for e in shown:
        difference, sd = e.difference or 0.0, e.sd or 0.0
        name = label_of(e.metric)
        cell = cell_of(e)
        dot = Dot(
            colour=measures.index(name) % COLOURS,
            at=place(difference),
            low=place(difference - sd),
            high=place(difference + sd),
            tip=f"{name}: ours {cell.text}, paper {cell.paper}, {cell.difference}: {e.verdict}",
        )
        rows.setdefault(f"{e.label} · {e.dataset} · {e.table}", []).append(dot)
    band = (place(-TOLERANCE), place(TOLERANCE))
    ends = (f"−{end:.1f}", f"+{end:.1f}")
    return Dots(list(rows.items()), measures, band, ends, len(points) - len(shown))


def coverage(datasets: Mapping[str, pd.DataFrame]) -> list[Stack]:
    """Return a bar of the official clips for each split of each dataset version."""
    stacks = []
    for name, frame in datasets.items():
        for _, row in frame.iterrows():
            counts = parts_of(row)
            total = sum(counts.values())
            parts = [
                Part(part, 100 * count / max(total, 1), f"{count:,}")
                for part, count in counts.items()
                if count
            ]
            stacks.append(Stack(f"{name} · {row.split}", parts, f"N = {total:,}"))
    return stacks


def cost_bars(stages: Mapping[str, Mapping[str, Cost]]) -> list[Stack]:
    """Return the device hours of the rows that needed a training first, the largest first."""
    ranked = hours_by_row(stages)
    longest = max([*(sum(own.values()) for _, own in ranked), 1e-9])
    return [
        Stack(
            label,
            [Part(s, 100 * h / longest, f"{s}: {_hours(h)}") for s, h in own.items() if h],
            _hours(sum(own.values())),
        )
        for label, own in ranked
    ]


def curves(runs: Mapping[str, pd.DataFrame]) -> list[Panel]:
    """Return a panel for each loss and headline metric, with a line for each run."""
    names = sorted(
        {n for frame in runs.values() for n in frame.name.unique() if is_headline(n)},
        key=lambda name: ("loss" not in name, name),
    )
    panels = []
    for name in names:
        series: list[Series] = []
        for label, frame in runs.items():
            own = frame[frame.name == name]
            pairs = list(zip(own.step.astype(float), own.value.astype(float), strict=True))
            step = -(-len(pairs) // MOST_POINTS) or 1
            kept = [(x, y, y, y) for x, y in pairs[:-1:step] + pairs[-1:] if isfinite(y)]
            if kept:
                series.append((label, kept))
        panels.append(_panel(name, series, STEP))
    return panels


def sweep(sheet: Sheet, entries: Iterable[Entry]) -> list[Panel]:
    """Return a panel for each heading of a table whose rows are points of lines."""
    at = {row.row: row.at for row in sheet.rows if row.at is not None}
    own = [entry for entry in entries if entry.row in at]
    panels = []
    for label in dict.fromkeys(column.label for column in sheet.columns):
        lines: dict[str, list[tuple[float, float, float, float]]] = {}
        for entry in own:
            if sheet_label(sheet, entry) != label:
                continue
            name = f"{sheet.dataset_label(entry.dataset)}, {entry.gallery.replace('_', ' ')}"
            points = lines.setdefault(name, [])
            if entry.ours is not None:
                below, above = bar_of(entry)
                points.append((at[entry.row], entry.ours, entry.ours - below, entry.ours + above))
        panels.append(
            _panel(
                label,
                [(n, sorted(p)) for n, p in lines.items()],
                AXES.get(sheet.sweep or "", sheet.sweep or ""),
            )
        )
    return panels


def sheet_label(sheet: Sheet, entry: Entry) -> str:
    """Return the heading of an entry's column; "" for one of no column, as of costs."""
    places = {(c.dataset, c.metric): c.label for c in sheet.columns}
    return places.get((entry.dataset, entry.column), "")


def _panel(title: str, series: Sequence[Series], below: str) -> Panel:
    points = [point for _, own in series for point in own]
    x = _ends([p[0] for p in points])
    y = _ends([value for p in points for value in p[1:]])

    def across(value: float) -> float:
        return round(LEFT + (value - x[0]) / (x[1] - x[0]) * (WIDE - LEFT - RIGHT), 2)

    def down(value: float) -> float:
        return round(HIGH - BOTTOM - (value - y[0]) / (y[1] - y[0]) * (HIGH - TOP - BOTTOM), 2)

    lines = [
        Line(
            label,
            index % COLOURS,
            index // COLOURS % 4,
            [(across(at), down(value)) for at, value, _, _ in own],
            [(across(at), down(low), down(high)) for at, _, low, high in own if low != high],
        )
        for index, (label, own) in enumerate(series)
        if own
    ]
    missing = ", ".join(label for label, own in series if not own)
    return Panel(
        title=title,
        lines=lines,
        x_ticks=[(across(tick), f"{tick:g}") for tick in _ticks(x, whole=below == STEP)],
        y_ticks=[(down(tick), f"{tick:.4g}") for tick in _ticks(y)],
        x=x,
        y=y,
        below=below,
        missing=missing,
    )


def _ends(values: list[float]) -> tuple[float, float]:
    """Return the ends of an axis, a little beyond the values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _ticks(span: tuple[float, float], *, whole: bool = False) -> list[float]:
    low, high = span
    ticks = MaxNLocator(4, integer=whole).tick_values(low, high)
    return [round(float(tick), 10) for tick in ticks if low <= tick <= high]


def _axis(low: float, high: float) -> Callable[[float], float]:
    """Return the function from a value to its place in percent."""
    length = (high - low) or 1.0
    return lambda value: round(100 * (value - low) / length, 2)


def _span(entry: Entry) -> tuple[float | None, float | None]:
    """Return the ends of the spread of ours."""
    if entry.ours is None:
        return None, None
    sd = (entry.sd if entry.fold_sd is None else entry.fold_sd) or 0.0
    return entry.ours - sd, entry.ours + sd


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:,.2g} h"

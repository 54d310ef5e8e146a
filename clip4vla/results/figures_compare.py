"""Figures that compare ours with the paper."""

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from clip4vla.config.metrics import label_of, metric_of
from clip4vla.results.compare import NO_REFERENCE, NOT_COMPARABLE, TOLERANCE, Entry
from clip4vla.results.figures import (
    BLUE,
    COLOURS,
    DARK,
    GREY,
    MARKS,
    blank,
    heading,
    row_height,
    shared_legend,
    style,
    wrapped,
)
from clip4vla.results.paper import NOT_AVAILABLE
from clip4vla.results.sheet import Sheet

OTHER_DATA = " (not comparable: see the notes)"  # the figure may be shown without its table


def bars(sheet: Sheet, entries: list[Entry]) -> Figure:
    """Draw ours and the paper on the first metric of each dataset; missing bars give a reason."""
    with style():
        headline = {c.dataset: c for c in reversed(sheet.columns)}
        shown = [
            (d, headline[d])
            for d in sheet.datasets()
            if any(e.dataset == d and e.kind == "ours" for e in entries)
        ]
        chosen: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            if any((entry.dataset, entry.column) == (d, c.metric) for d, c in shown):
                chosen.setdefault((entry.row, entry.dataset), entry)
        rows = list(dict.fromkeys(row for row, _ in chosen))
        labels = {entry.row: entry.label for entry in chosen.values()}
        row = row_height(labels.values(), 0.42)
        figure = blank(3.0 + 3.6 * max(len(shown), 1), 1.5 + row * max(len(rows), 1))
        axes = figure.subplots(1, max(len(shown), 1), sharey=True, squeeze=False)[0]
        for axis, (dataset, column) in zip(axes, shown, strict=False):
            _draw_bars(axis, [chosen.get((row, dataset)) for row in rows])
            axis.set_title(wrapped(f"{sheet.dataset_label(dataset)}, {column.label}"), loc="left")
            axis.grid(True, axis="x")
        axes[0].set_yticks(range(len(rows)), [wrapped(labels[row]) for row in rows])
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        foreign = not sheet.comparable or _foreign(chosen.values())
        drawn = [
            (any(e.paper is not None for e in chosen.values()), GREY, "paper"),
            (any(e.ours is not None for e in chosen.values()), BLUE, "ours (mean, ± sd)"),
        ]
        handles = [
            Patch(
                color=colour, label=f"{name}{OTHER_DATA}" if foreign and name == "paper" else name
            )
            for there, colour, name in drawn
            if there
        ]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        heading(figure, sheet.title)
    return figure


def _draw_bars(axis: Axes, entries: list[Entry | None]) -> None:
    ours = [e.ours + (e.sd or 0.0) for e in entries if e and e.ours is not None]
    longest = max([1.0, *ours, *(e.paper for e in entries if e and e.paper is not None)])
    pad = 0.015 * longest
    for place, entry in enumerate(entries):
        if entry is None:
            continue
        both = entry.kind == "ours"
        if entry.paper is not None:
            y = place - 0.2 if both else place
            axis.barh(y, entry.paper, height=0.36, color=GREY)
            axis.text(entry.paper + pad, y, f"{entry.paper:.1f}", va="center", fontsize=7)
        elif not both:
            text = NOT_AVAILABLE if entry.unavailable else NO_REFERENCE
            axis.text(pad, place, text, va="center", fontsize=7, color="#4a5a6a")
        if both and entry.ours is not None:
            y = place + 0.2
            axis.barh(y, entry.ours, height=0.36, color=BLUE, xerr=entry.sd, ecolor=DARK)
            end = entry.ours + (entry.sd or 0.0) + pad
            axis.text(end, y, f"{entry.ours:.1f}", va="center", fontsize=7, fontweight="bold")
        elif both:
            text = entry.verdict
            axis.text(pad, place + 0.2, text, va="center", fontsize=7, style="italic")
    below = [e.ours - (e.sd or 0.0) for e in entries if e and e.ours is not None]
    axis.set_xlim(min([0.0, *below]), 1.15 * longest)
    axis.tick_params(axis="y", length=0)


def differences(entries: list[Entry]) -> Figure:
    """Draw ours minus paper for every number, in points; the band is the range of `within`."""
    shown = [e for e in entries if e.difference is not None and metric_of(e.metric).in_points]
    with style():
        places = list(dict.fromkeys(_place(e) for e in shown))
        names = {_place(e): f"{e.label} · {e.dataset} · {e.table}" for e in shown}
        measures = list(dict.fromkeys(label_of(e.metric) for e in shown))
        beside = {place: [e for e in shown if _place(e) == place] for place in places}
        figure = blank(8.0, 1.8 + row_height(names.values(), 0.34) * max(len(places), 2))
        axis = figure.subplots()
        axis.axvspan(-TOLERANCE, TOLERANCE, color="#e6f1f8", zorder=0)
        axis.axvline(0, color=DARK, linewidth=0.8)
        for line in range(1, len(places)):
            axis.axhline(line - 0.5, color="#dde3e9", linewidth=0.6, zorder=0)
        for index, measure in enumerate(measures):
            own = [e for e in shown if label_of(e.metric) == measure]
            heights = []
            for e in own:
                group = beside[_place(e)]
                shift = 0.7 * ((group.index(e) + 0.5) / len(group) - 0.5)
                heights.append(places.index(_place(e)) + shift)
            axis.errorbar(
                [e.difference for e in own if e.difference is not None],
                heights,
                xerr=[e.sd or 0.0 for e in own],
                fmt=MARKS[index % len(MARKS)],
                color=COLOURS[index % len(COLOURS)],
                markersize=4.5,
                elinewidth=0.8,
                label=measure,
            )
        axis.set_yticks(range(len(places)), [wrapped(names[place]) for place in places])
        axis.set_ylim(max(len(places), 1) - 0.4, -0.6)
        axis.set_xlabel(f"ours − paper, points (bars: sd over seeds; band: ± {TOLERANCE:g})")
        axis.grid(True, axis="x")
        axis.tick_params(axis="y", length=0)
        title = f"Difference to the paper{OTHER_DATA if _foreign(shown) else ''}"
        heading(figure, title)
        if shown:
            shared_legend(figure, [axis], 6)
        else:
            axis.text(0, 0, "no number of ours has a counterpart yet", ha="center", va="center")
    return figure


def _foreign(entries: Iterable[Entry]) -> bool:
    return any(entry.verdict == NOT_COMPARABLE for entry in entries)


def _place(entry: Entry) -> tuple[str, str, str]:
    return entry.table, entry.row, entry.dataset

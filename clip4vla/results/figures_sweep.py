"""Figure of a sweep, a table whose rows are points of a line: Figure 4 of the paper."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clip4vla.config.metrics import metric_of
from clip4vla.results.compare import Entry
from clip4vla.results.figures import COLOURS, MARKS, blank, heading, shared_legend, style, wrapped
from clip4vla.results.sheet import Sheet

AXES = {"nonverbal_share": "w, share of [NB]"}
LINES = ("-", "--", "-.", ":")


def sweep(sheet: Sheet, entries: list[Entry]) -> Figure:
    """Draw a panel for each heading of the columns, a line for each dataset and gallery.

    Bars are standard deviations over seeds or folds, or the interval of a single run. A single
    best point of a line is ringed. Lines that have not been run are listed in their panel.
    """
    at = {row.row: row.at for row in sheet.rows if row.at is not None}
    headings = list(dict.fromkeys(column.label for column in sheet.columns))
    with style():
        wide = min(4, len(headings))
        high = -(-len(headings) // wide)
        figure = blank(max(3.2 * wide + 0.3, 5.0), 2.8 * high + 0.9)
        axes = figure.subplots(high, wide, squeeze=False).ravel()
        for axis, label in zip(axes, headings, strict=False):
            _panel(axis, sheet, [e for e in entries if e.row in at], label, at)
        for axis in axes[len(headings) :]:
            axis.set_visible(False)
        shared_legend(figure, axes, 4)
        heading(figure, sheet.title)
    return figure


def _panel(
    axis: Axes, sheet: Sheet, entries: list[Entry], label: str, at: dict[str, float]
) -> None:
    metrics = {c.dataset: c.metric for c in sheet.columns if c.label == label}
    lower = any(metric_of(metric).lower_is_better for metric in metrics.values())
    waiting: list[str] = []
    for index, (dataset, metric) in enumerate(metrics.items()):
        own = [e for e in entries if (e.dataset, e.column) == (dataset, metric)]
        galleries = list(dict.fromkeys(e.gallery for e in own))
        for nth, gallery in enumerate(galleries):
            scored = [e for e in own if e.gallery == gallery and e.ours is not None]
            points = sorted(scored, key=lambda e: at[e.row])
            name = sheet.dataset_label(dataset)
            name += f", {gallery.replace('_', ' ')}" if len(galleries) > 1 else ""
            if not points:
                waiting.append(name)
                continue
            x, y = [at[e.row] for e in points], [e.ours for e in points if e.ours is not None]
            bars = [bar_of(e) for e in points]
            axis.errorbar(
                x,
                y,
                yerr=list(zip(*bars, strict=True)) if any(map(any, bars)) else None,
                color=COLOURS[index % len(COLOURS)],
                linestyle=LINES[nth % len(LINES)],
                marker=MARKS[index % len(MARKS)],
                markersize=4,
                linewidth=1.3,
                elinewidth=0.8,
                capsize=2,
                label=name,
            )
            best = (min if lower else max)(y)
            if y.count(best) > 1:
                continue
            axis.plot(
                x[y.index(best)],
                best,
                "o",
                markersize=10,
                markerfacecolor="none",
                markeredgecolor=COLOURS[index % len(COLOURS)],
            )
    axis.set_xlabel(AXES.get(sheet.sweep or "", sheet.sweep or ""))
    axis.grid(True, axis="both")
    axis.set_title(wrapped(f"{label}, lower is better" if lower else label, 36), loc="left")
    if at:
        margin = 0.04 * max(max(at.values()) - min(at.values()), 0.1)
        axis.set_xlim(min(at.values()) - margin, max(at.values()) + margin)
    if waiting:
        text = wrapped("not run: " + ", ".join(waiting))
        axis.text(
            0.5, 0.02, text, transform=axis.transAxes, ha="center", fontsize=7, style="italic"
        )


def bar_of(entry: Entry) -> tuple[float, float]:
    """Return how far the bar of a point reaches below and above it."""
    sd = entry.sd if entry.fold_sd is None else entry.fold_sd
    ours, low, high = entry.ours, entry.low, entry.high
    if sd is None and ours is not None and low is not None and high is not None:
        return max(ours - low, 0.0), max(high - ours, 0.0)
    return sd or 0.0, sd or 0.0

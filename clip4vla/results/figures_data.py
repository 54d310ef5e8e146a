"""Figures of training curves and of the coverage of the data."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clip4vla.config.metrics import CURVES, metric_of
from clip4vla.results.figures import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    blank,
    draw_shares,
    heading,
    legend_of,
    row_height,
    shared_legend,
    style,
    wrapped,
)
from clip4vla.tracking.curve import read_rows

LOOKS = {  # outcome of a clip: colour, hatch
    "with sound": (BLUE, ""),
    "silent": (SKY, "//"),
    "no usable video": (ORANGE, ".."),
    "not fetched": (VERMILION, "xx"),
    "not in the lists given": (GREY, ""),
}


def read_curve(path: str | Path) -> pd.DataFrame:
    """Read a `metrics.jsonl` as a frame: step, name, value, one line per number."""
    rows = [
        (step, name, value) for step, values in read_rows(path) for name, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["step", "name", "value"])


def is_headline(name: str) -> bool:
    """Return whether a curve is drawn: all of training, and headline metrics of validation."""
    return not name.startswith(("val/", "test/")) or metric_of(name).shown <= CURVES


def curves(runs: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw training curves: a panel for each loss and headline metric, a line for each run.

    `runs`: label -> frame with columns step, name, value (`read_curve`).
    """
    names = sorted(
        {n for frame in runs.values() for n in frame.name.unique() if is_headline(n)},
        key=lambda name: ("loss" not in name, name),
    )
    with style():
        wide = min(3, max(len(names), 1))
        high = -(-max(len(names), 1) // wide)
        figure = blank(3.4 * wide + 0.4, 2.5 * high + 0.8)
        axes = figure.subplots(high, wide, squeeze=False).ravel()
        for axis, name in zip(axes, names, strict=False):
            for index, (label, frame) in enumerate(runs.items()):
                own = frame[frame.name == name]
                if own.empty:
                    continue
                axis.plot(
                    own.step,
                    own.value,
                    color=COLOURS[index % len(COLOURS)],
                    linestyle=("-", "--", "-.", ":")[index // len(COLOURS) % 4],
                    marker="o" if len(own) <= 12 else None,
                    markersize=3,
                    linewidth=1.3,
                    label=label,
                )
            axis.set_title(wrapped(name, 36), loc="left")
            axis.set_xlabel("step")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.ticklabel_format(axis="y", scilimits=(-3, 5))
            axis.grid(True, axis="both")
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        shared_legend(figure, axes, min(3, wide), fontsize=8)
        heading(figure, title)
    return figure


def coverage(datasets: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the coverage of every split: the parts of a bar add up to the official N.

    `datasets`: dataset version -> its coverage.csv (split, expected, planned, fetched,
    with_video, with_sound, silent).
    """
    with style():
        rows = [(name, row) for name, frame in datasets.items() for _, row in frame.iterrows()]
        labels = [f"{name} · {row.split}" for name, row in rows]
        figure = blank(8.0, 1.7 + row_height(labels, 0.4) * max(len(rows), 1))
        axis = figure.subplots()
        draw_shares(axis, labels, [parts_of(row) for _, row in rows], LOOKS)
        axis.set_title("Coverage of the data", loc="left", fontweight="bold")
        legend_of(figure, LOOKS, 5)
    return figure


def parts_of(row: pd.Series) -> dict[str, int]:
    """Return the clips of each part of a bar."""
    planned = int(row.planned)
    expected = planned if pd.isna(row.expected) else max(int(row.expected), planned)
    counts = [int(row.with_sound), int(row.silent)]
    counts += [int(row.fetched - row.with_video), int(planned - row.fetched), expected - planned]
    return dict(zip(LOOKS, counts, strict=True))

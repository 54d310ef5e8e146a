"""Figure of `clip4vla data status`: progress of a dataset version by split."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clip4vla.results.figures import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    blank,
    draw_shares,
    heading,
    legend_of,
    style,
)

LOOKS = {  # outcome of a clip: colour, hatch
    "with sound": (BLUE, ""),
    "silent": (SKY, "//"),
    "no usable video": (ORANGE, ".."),
    "refused for now": (PURPLE, "\\\\"),
    "gone for good": (VERMILION, "xx"),
    "not done yet": ("#dde3e9", ""),
    "not in the lists given": (GREY, ""),
}


def status_figure(title: str, by_split: pd.DataFrame, by_status: list[dict]) -> Figure:
    """Draw splits, the parts of whose bars add up to the official N, beside clips by status.

    `by_split`, `by_status`: of `clip4vla.media.overview`.
    """
    lines = max(len(by_split), len(by_status), 1)
    with style():
        figure = blank(10.0, 1.9 + 0.36 * lines)
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        rows = [_counts(row) for row in by_split.to_dict("records")]
        draw_shares(left, list(by_split["split"]), rows, LOOKS)
        _draw_statuses(right, by_status)
        heading(figure, title)
        legend_of(figure, LOOKS, 4)
    return figure


def _counts(row: dict[str, Any]) -> dict[str, Any]:
    """Add the clips of the official lists that the lists given lack."""
    planned, expected = row["planned"], row["expected"]
    total = planned if pd.isna(expected) else max(int(expected), planned)
    return row | {"not in the lists given": total - planned}


def _draw_statuses(axis: Axes, by_status: list[dict]) -> None:
    if not by_status:
        axis.text(0.5, 0.5, "nothing amiss so far", ha="center", va="center", color=DARK)
        axis.set_axis_off()
        return
    colours = {"fetch": VERMILION, "video": ORANGE, "audio": SKY, "file": BLUE, "length": PURPLE}
    clips = [row["clips"] for row in by_status]
    places = range(len(by_status))
    axis.barh(places, clips, height=0.6, color=[colours[row["part"]] for row in by_status])
    for place, count in zip(places, clips, strict=True):
        axis.text(count, place, f" {count:,}", va="center", fontsize=8)
    axis.set_yticks(places, [f"{row['part']}: {row['status']}" for row in by_status])
    axis.set_ylim(len(by_status) - 0.4, -0.6)
    axis.set_xlim(0, 1.2 * max(clips))
    axis.set_xlabel("clips by status")
    axis.tick_params(axis="y", length=0)

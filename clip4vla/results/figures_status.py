"""Figure of `clip4vla data status`: progress of a dataset version by split."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from clip4vla.results.figures import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    blank,
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
        _draw_splits(left, by_split)
        _draw_statuses(right, by_status)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        handles = [
            Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=name)
            for name, (colour, hatch) in LOOKS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_splits(axis: Axes, by_split: pd.DataFrame) -> None:
    for place, row in enumerate(by_split.to_dict("records")):
        planned = row["planned"]
        total = planned if pd.isna(row["expected"]) else max(int(row["expected"]), planned)
        counts = row | {"not in the lists given": total - planned}
        begin = 0.0
        for name, (colour, hatch) in LOOKS.items():
            share = 100 * counts[name] / max(total, 1)
            axis.barh(
                place,
                share,
                left=begin,
                height=0.6,
                color=colour,
                hatch=hatch,
                edgecolor="white",
            )
            if share >= 7:
                axis.text(
                    begin + share / 2,
                    place,
                    f"{counts[name]:,}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if colour in (BLUE, VERMILION, PURPLE) else DARK,
                    bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
                )
            begin += share
        axis.text(101, place, f"N = {total:,}", va="center", fontsize=8)
    axis.set_yticks(range(len(by_split)), by_split["split"])
    axis.set_ylim(max(len(by_split), 1) - 0.4, -0.6)
    axis.set_xlim(0, 118)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel("share of the clips of the official lists, percent")
    axis.tick_params(axis="y", length=0)


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

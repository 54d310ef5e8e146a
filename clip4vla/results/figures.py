"""Style, colours and saving of all figures.

Figures use matplotlib's Figure without global state; equal input gives equal bytes. Colours are
those of Okabe and Ito, which most colour-blind readers can tell apart; marks and hatches add to
them.
"""

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from clip4vla.common.files import whole_file

if TYPE_CHECKING:  # since matplotlib 3.10
    from matplotlib.typing import RcKeyType

BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, GREY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#56b4e9",
    "#cc79a7",
    "#8a939c",
)
DARK = "#1c2733"
LABEL = 44  # letters of a line of a label beside an axis
LINES = 4  # of a label or title; the rest is cut with an ellipsis
LINE = 0.16  # inches
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, DARK, GREY)
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: "dict[RcKeyType, Any]" = {
    "svg.hashsalt": "clip4vla",  # else the ids in an SVG are random
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9,
    "text.parse_math": False,  # a $ in a user's title or label is a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": "#dde3e9",
    "figure.dpi": 110,
    "savefig.dpi": 150,
}


def style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in the style of all."""
    return matplotlib.rc_context(STYLE)


def save(figure: Figure, stem: str | Path) -> None:
    """Write `<stem>.svg` and `<stem>.png`, without dates or versions in them."""
    for kind in ("png", "svg"):
        content = encoded(figure, kind)
        figure.set_layout_engine("none")  # the next file has the same layout; it takes a second
        with whole_file(f"{stem}.{kind}") as temporary:
            temporary.write_bytes(content)


def encoded(figure: Figure, kind: str) -> bytes:
    """Return a figure as the bytes of an svg or png file."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with style():
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def blank(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches, whose parts are laid out without overlap."""
    margins = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)  # texts are a little wider in a file
    figure = Figure(figsize=(width, height), layout=margins)
    FigureCanvasAgg(figure)
    return figure


def wrapped(text: str, letters: int = LABEL) -> str:
    """Return a text in lines of at most so many letters, four at most."""
    return "\n".join(textwrap.wrap(text, letters, max_lines=LINES, placeholder=" …"))


def row_height(labels: Iterable[str], least: float) -> float:
    """Return the inches that a row of a chart needs for the highest of its wrapped labels."""
    highest = max((wrapped(label).count("\n") + 1 for label in labels), default=1)
    return max(least, LINE * highest + 0.06)


def heading(figure: Figure, text: str) -> None:
    """Write the title of a figure, over its width, and make room for its lines."""
    title = wrapped(text, int(10 * figure.get_figwidth()))  # bold letters of 9 points and a fifth
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.set_figheight(figure.get_figheight() + LINE * title.count("\n"))


def shared_legend(
    figure: Figure, axes: Iterable[Axes], columns: int, fontsize: int | None = None
) -> None:
    """Draw one legend below all axes, with each label once, and make room for its lines."""
    handles: dict[str, Artist] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return
    columns = min(columns, len(handles))
    labels = [wrapped(label, int(11 * figure.get_figwidth() / columns) - 7) for label in handles]
    rows = -(-len(labels) // columns)
    lines = max(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + LINE * lines * rows * 1.1)
    figure.legend(
        handles.values(),
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=fontsize,
    )


Looks = Mapping[str, tuple[str, str]]  # part of a bar -> its colour and hatch


def draw_shares(
    axis: Axes, labels: list[str], counts: Sequence[Mapping[str, int]], looks: Looks
) -> None:
    """Draw a bar for each label, with the share of each part in their sum, which is N."""
    for place, parts in enumerate(counts):
        begin, total = 0.0, sum(parts[name] for name in looks)
        for name, (colour, hatch) in looks.items():
            share = 100 * parts[name] / max(total, 1)
            bar = axis.barh(place, share, left=begin, height=0.6, color=colour, edgecolor="white")
            bar[0].set_hatch(hatch)
            if share >= 7:
                axis.text(
                    begin + share / 2,
                    place,
                    f"{parts[name]:,}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if colour in (BLUE, VERMILION, PURPLE) else DARK,
                    bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
                )
            begin += share
        axis.text(101, place, f"N = {total:,}", va="center", fontsize=8)
    axis.set_yticks(range(len(labels)), [wrapped(label) for label in labels])
    axis.set_ylim(max(len(labels), 1) - 0.4, -0.6)
    axis.set_xlim(0, 118)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel("share of the clips of the official lists, percent")
    axis.tick_params(axis="y", length=0)


def legend_of(figure: Figure, looks: Looks, columns: int) -> None:
    """Draw the legend of `draw_shares` below all axes."""
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=name)
        for name, (colour, hatch) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)

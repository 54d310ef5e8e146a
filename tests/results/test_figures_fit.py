"""Figures of odd tables: no text lies outside the canvas, no bar outside its axis."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.text import Text
from results_tree import PAPER, make_tree

from clip4vla.results.compare import compare
from clip4vla.results.cost import Cost
from clip4vla.results.figures import encoded, style
from clip4vla.results.figures_compare import bars, differences
from clip4vla.results.figures_cost import cost_figure
from clip4vla.results.figures_data import coverage, curves
from clip4vla.results.figures_sweep import sweep
from clip4vla.results.paper import read_paper
from clip4vla.results.sheet import read_sheet
from clip4vla.results.tidy import build_tidy

LONG = "a label of a row that says everything that can be said about it and more " * 3
ONE_WORD = "checkpoint_" * 20
TEXTS = ["short", LONG, ONE_WORD]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    root = make_tree(tmp_path_factory.mktemp("tree"))
    sheet = read_sheet(root / "tables/table1/rows.json")
    return sheet, compare(sheet, build_tidy([sheet], root / "runs"), read_paper(PAPER))


def check(figure):
    """Every text that is shown lies on the canvas, and every error bar in its axis."""
    figure.set_dpi(150)  # of the PNG; letters are as wide as their pixels allow
    with style():
        figure.draw_without_rendering()
    renderer, canvas = figure.canvas.get_renderer(), figure.bbox
    hidden = set(unseen(figure))
    for text in figure.findobj(Text):
        if text in hidden or not (text.get_visible() and text.get_text().strip()):
            continue
        box = text.get_window_extent(renderer)
        inside = (
            box.x0 >= -1 and box.y0 >= -1 and box.x1 <= canvas.x1 + 1 and box.y1 <= canvas.y1 + 1
        )
        assert inside, f"{text.get_text()[:60]!r}: {box.extents} on {canvas.extents}"
    for axis in figure.axes:
        for lines in axis.findobj(LineCollection):
            for points in lines.get_segments():
                x, y = np.asarray(points).T
                left, right = sorted(axis.get_xlim())
                low, high = sorted(axis.get_ylim())
                assert left <= x.min() and x.max() <= right and low <= y.min() and y.max() <= high


def unseen(figure):
    """Texts that are not drawn: those of axes without content, and of ticks out of sight."""
    for axes in figure.axes:
        if not axes.get_visible():
            yield from axes.findobj(Text)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    yield from (tick.label1, tick.label2)


def changed(table, text, rows=None, sd=None, ours=True):
    """The table with this text as its title and labels; each row so often; this spread."""
    sheet, entries = table
    sheet = sheet.model_copy(update={"title": text})
    entries = [
        replace(e, label=f"{text} {e.row}", sd=sd if e.ours is not None else None) for e in entries
    ]
    if not ours:
        entries = [replace(e, ours=None, sd=None, difference=None) for e in entries]
    if rows == 1:
        entries = [e for e in entries if e.row == entries[0].row]
    elif rows:
        entries = [replace(e, row=f"{e.row}{i}") for i in range(rows) for e in entries]
    return sheet, entries


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("rows", [None, 1, 8])
def test_bars_and_differences_of_odd_tables_are_whole(table, text, rows):
    sheet, entries = changed(table, text, rows, sd=0.4)
    check(bars(sheet, entries))
    check(differences(entries))


def test_a_spread_beyond_the_value_is_drawn_whole(table):
    sheet, entries = changed(table, "short", sd=80.0)
    check(bars(sheet, entries))
    check(differences(entries))


def legends(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_legend_names_what_is_drawn(table):
    sheet, entries = changed(table, "short")
    assert len(legends(bars(sheet, entries))) == 2
    sheet, entries = changed(table, "short", ours=False)
    assert len(legends(bars(sheet, entries))) == 1
    own = [replace(e, paper=None, difference=None) for e in table[1] if e.kind == "ours"]
    assert legends(bars(sheet, own)) == ["ours (mean, ± sd)"]


@pytest.mark.parametrize("text", TEXTS)
def test_sweeps_are_whole(table, text):
    sheet, entries = changed(table, text, sd=30.0)
    rows = [row.model_copy(update={"at": float(i)}) for i, row in enumerate(sheet.rows)]
    names = {dataset: text for dataset in sheet.datasets()}
    update = {"rows": rows, "sweep": "nonverbal_share", "dataset_labels": names}
    check(sweep(sheet.model_copy(update=update), entries))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("runs", [1, 40])
def test_curves_of_many_runs_are_whole(text, runs):
    names = ["train/loss", "val/t2v_R1", "train/lr"]
    frame = pd.DataFrame(
        {"step": [1, 2] * 3, "name": sorted(names * 2), "value": [2.0, float("nan")] * 3}
    )
    check(curves({f"{i} {text}": frame for i in range(runs)}, text))


@pytest.mark.parametrize("text", TEXTS)
def test_coverage_and_costs_are_whole(text):
    counts = {
        "expected": 3e6,
        "planned": 2999999,
        "fetched": 10,
        "with_video": 9,
        "with_sound": 5,
        "silent": 4,
    }
    frame = pd.DataFrame([{"split": split, **counts} for split in ("train", "test")])
    check(coverage({text: frame}))
    cost = Cost(hours=1.0, hardware={text: 8.0}, attempts=1, batch_size=1, trained_parameters=1)
    check(cost_figure({"pretrain": {f"{text}/{i}/a/0": cost for i in range(40)}}))


def test_the_same_figure_has_the_same_bytes(table):
    sheet, entries = changed(table, LONG)
    assert encoded(bars(sheet, entries), "svg") == encoded(bars(sheet, entries), "svg")

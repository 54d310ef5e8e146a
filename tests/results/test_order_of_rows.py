"""The order of rows, the claim of an ablation, in the paper and in ours."""

import pytest
from results_tree import PAPER, metrics

from clip4vla.common.files import write_json
from clip4vla.results.compare import compare
from clip4vla.results.order import best_notes, order_notes, orders
from clip4vla.results.paper import read_paper
from clip4vla.results.sheet import Sheet
from clip4vla.results.tables import table_views
from clip4vla.results.tidy import build_tidy

ROWS = ("scratch", "initial", "inter", "intra", "type_token")  # Table 5: R@1 2.5 3.6 6.8 10.5 10.6


def table5(folder, scores, usable=20, **more):
    """Table 5 on MSR-VTT, R@1 only. scores: row -> one value per seed."""
    rows = []
    for row, of_seeds in scores.items():
        cells = []
        for seed, value in enumerate(of_seeds):
            key = f"{row}{seed}"
            pretrained = row not in ("scratch", "initial")
            values = {"t2a_R1": value}
            found = metrics(key, value, metrics_of=values, usable=usable, pretrained=pretrained)
            write_json(folder / "runs" / key / "metrics.json", found)
            cells.append({"dataset": "msrvtt", "seed": seed, "run_key": key})
        rows.append({"row": row, "label": row, "cells": cells})
    column = {"dataset": "msrvtt", "metric": "t2a_R1", "label": "R@1"}
    value = {"table": "table5", "title": "T", "columns": [column], "rows": rows, **more}
    return Sheet.model_validate(value)


def compared(folder, scores, **more):
    sheet = table5(folder, scores, **more)
    return sheet, compare(sheet, build_tidy([sheet], folder / "runs"), read_paper(PAPER))


def test_order_kept(tmp_path):
    sheet, entries = compared(tmp_path, {row: [float(n)] for n, row in enumerate(ROWS)})
    assert orders(sheet, entries)["msrvtt", "t2a_R1"].verdict == "order kept 10/10"
    assert len(order_notes(sheet, entries)) == 1


def test_a_broken_pair_is_listed_with_its_spread(tmp_path):
    near = {"scratch": [1.0, 1.2], "initial": [2.0, 2.1], "inter": [5.0, 7.0], "intra": [5.5, 6.0]}
    sheet, entries = compared(tmp_path, near | {"type_token": [0.0, 0.1]})
    order = orders(sheet, entries)["msrvtt", "t2a_R1"]
    assert order.verdict == "order broken 5/10"
    (note,) = order_notes(sheet, entries)[1:]
    assert note.count(" are ") == len(order.broken) == 5
    near = "inter and intra are 6.0 and 5.8 (paper 6.8 and 10.5; closer to each other than 2 sd)"
    assert near in note
    assert "intra and type_token are 5.8 and 0.1 (paper 10.5 and 10.6)" in note


def test_an_order_on_part_of_the_clips_is_partial(tmp_path):
    sheet, entries = compared(tmp_path, {"scratch": [1.0], "initial": [2.0]}, usable=15)
    assert orders(sheet, entries)["msrvtt", "t2a_R1"].verdict == "order kept 1/1, partial"


def test_the_order_is_the_last_line_of_a_table_that_has_two_rows_to_compare(tmp_path):
    def last(folder, scores, **more):
        sheet = table5(folder, scores, **more)
        _, grid = table_views(sheet, build_tidy([sheet], folder / "runs"), read_paper(PAPER))
        return grid.lines[-1]

    line = last(tmp_path / "two", {"scratch": [9.0], "initial": [3.0]})
    assert (line.label, line.source) == ("All rows", "verdict")
    assert line.cells[0] == "order broken 0/1"
    assert last(tmp_path / "one", {"scratch": [9.0]}).label == "scratch"
    small = {"comparable": False, "note": "tiny towers"}
    assert last(tmp_path / "tiny", {"scratch": [9.0], "initial": [3.0]}, **small).label == "initial"


@pytest.mark.parametrize(
    ("scores", "best"), [([1.0, 3.0, 2.0], "initial"), ([4.0, 3.0, 4.0], "scratch")]
)
def test_a_sweep_lists_its_best_rows(tmp_path, scores, best):
    rows = {row: [value] for row, value in zip(ROWS, scores, strict=False)}
    sheet, entries = compared(tmp_path, rows)
    assert best_notes(sheet, entries) == []
    at = [row.model_copy(update={"at": n}) for n, row in enumerate(sheet.rows)]
    swept = sheet.model_copy(update={"sweep": "nonverbal_share", "rows": at})
    assert best_notes(swept, entries) == [f"Best of the sweep: MSR-VTT R@1: {best}."]

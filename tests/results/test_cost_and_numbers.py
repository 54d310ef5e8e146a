"""Cost of the trainings of a table, and its numbers as LaTeX macros."""

import re
from pathlib import Path

import pytest
from results_tree import PAPER, make_tree

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_json
from clip4vla.config.planner import make_plan
from clip4vla.results.compare import compare
from clip4vla.results.cost import cost_notes, read_costs
from clip4vla.results.figures import COLOURS, MARKS, encoded
from clip4vla.results.figures_cost import SHOWN, cost_figure
from clip4vla.results.numbers import UNKNOWN, to_numbers
from clip4vla.results.paper import read_paper
from clip4vla.results.sheet import Sheet, read_sheet
from clip4vla.results.tables import table_views
from clip4vla.results.tidy import build_tidy

REPO = Path(__file__).parents[2]
V100 = {"hours": 10.0, "gpu_hours": 80.0, "hardware": {"NVIDIA V100": 80.0}, "attempts": 3}
TRAINED = {"batch_size": 256, "trainable_parameters": 87_849_216}


def ended(folder, cost=V100):
    """Write the cost of a training as it does itself."""
    write_json(folder / "cost.json", cost)
    write_json(folder / "train.json", TRAINED)


@pytest.fixture
def sheet(tmp_path):
    return read_sheet(make_tree(tmp_path) / "tables/table1/rows.json")


def test_hours_of_the_trainings_that_have_ended(sheet, tmp_path):
    sheet = sheet.model_copy(update={"trainings": ["one", "two", "three"]})
    assert cost_notes(sheet, {}) == []
    ended(tmp_path / "runs/one")
    ended(tmp_path / "runs/two", V100 | {"hardware": {"NVIDIA V100": 1.5, "cpu": 0.2}})
    costs = read_costs(["one", "two", "three", "of another table"], tmp_path / "runs")
    assert costs["one"].device_hours == 80.0
    (note,) = cost_notes(sheet, costs)
    assert note.startswith("Cost: 2 of 3 trainings behind the table have ended, with 81.5 h on")
    assert "NVIDIA V100; 12.0 min on cpu" in note


def test_invalid_cost_files_are_reported(tmp_path):
    ended(tmp_path / "one", {"hours": 1})
    with pytest.raises(UserError, match=r"one/cost\.json: not a cost\.json"):
        read_costs(["one"], tmp_path)
    ended(tmp_path / "one")
    write_json(tmp_path / "one/train.json", {})
    with pytest.raises(UserError, match=r"one/train\.json: not a train\.json"):
        read_costs(["one"], tmp_path)


def test_cost_figure_has_a_bar_for_each_row_and_one_for_the_rest(tmp_path):
    ended(tmp_path / "one")
    cost = read_costs(["one"], tmp_path)["one"]
    runs = {f"table5/row{n}/msrvtt/s{seed}": cost for n in range(SHOWN + 5) for seed in (0, 1)}
    figure = cost_figure({"pretrain": {"table5/row0/msrvtt": cost}, "finetune": runs})
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels[0] == "table5/row0" and labels[-1] == "5 more rows" and len(labels) == SHOWN + 1
    assert figure.get_suptitle() == "Cost of the trainings: 5,680.0 device hours"
    assert encoded(cost_figure({}), "svg")


@pytest.fixture
def table6():
    """Return the shipped table, and the run key of its one pre-training."""
    plan = make_plan([REPO / "config.yaml"], {"targets": ["table6"]})
    sheet = Sheet.model_validate(plan.sheet("table6"))
    (key,) = plan.stage("pretrain")
    assert [row.pretrainings for row in sheet.rows] == [[key], [key]]
    return sheet, key


def views(sheet, runs):
    tidy, costs = build_tidy([sheet], runs), read_costs(sheet.trainings, runs)
    return table_views(sheet, tidy, read_paper(PAPER), costs)


def test_table_6_shows_the_cost_of_pretraining_in_the_paper_and_ours(table6, tmp_path):
    sheet, key = table6
    _, grid = views(sheet, tmp_path)
    assert (grid.groups[0], sum(size for _, size in grid.groups)) == (("Pre-training", 3), 5)
    vatt, paper, ours, official = (line.cells for line in grid.lines)
    assert vatt == ("512–768 TPU", "2048", "264", "84.7", "89.6")
    assert paper == ("48 V100", "256", "88", "86.8", "91.9")
    assert set(ours) == set(official) == {"not run"}
    ended(tmp_path / key, V100 | {"hardware": {"NVIDIA H100": 300.0}})
    entries, grid = views(sheet, tmp_path)
    assert grid.lines[-1].cells[:3] == ("12.5 on NVIDIA H100", "256", "87.8")
    assert all(len(line.cells) == len(grid.headings) for line in grid.lines)
    # Every cost of paper.tsv, and ours, number by number: with no verdict.
    found = {(e.row, e.metric): (e.paper, e.ours) for e in entries if e.dataset == "pretraining"}
    assert found["vatt_medium", "tpu_days_max"] == (768, None)
    assert found["clip4vla", "batch_size"] == (256, 256)
    assert found["clip4vla", "device_days"] == (None, 12.5)
    printed = [n for n in read_paper(PAPER) if (n.table, n.dataset) == ("table6", "pretraining")]
    assert {(n.row, n.metric) for n in printed} < found.keys()
    assert r"{table6/clip4vla/pretraining/batch_size}{256}" in to_numbers(entries)


def test_a_table_without_costs_has_no_columns_for_them(table6, tmp_path):
    sheet, key = table6
    ended(tmp_path / key)
    entries, grid = views(sheet.model_copy(update={"costs": False}), tmp_path)
    assert len(grid.headings) == 2 and all(e.dataset != "pretraining" for e in entries)


def test_every_number_is_a_macro(sheet, tmp_path):
    entries = compare(sheet, build_tidy([sheet], tmp_path / "runs"), read_paper(PAPER))
    text = to_numbers(entries)
    lines = dict(re.findall(r"^\\clipvla@set\{([^}]*)\}(.*)$", text, flags=re.MULTILINE))
    assert len(lines) == len(entries)
    assert lines["table1/clip4vla/msrvtt/t2v_R1"] == "{45.5}{0.7}{20}{46.2}{$-$0.7}{within}"
    with_sound = lines["table1/clip4vla/msrvtt/t2v_R1/with_sound"]
    assert with_sound == f"{{45.0}}{{{UNKNOWN}}}{{17}}{{46.2}}{{{UNKNOWN}}}{{other gallery}}"
    assert lines["table1/w2vv_pp/msrvtt/t2v_R1"].startswith(f"{{{UNKNOWN}}}")
    for values in lines.values():
        assert len(re.findall(r"\{(?:[^{}]|\{[^{}]*\})*\}", values)) == 6


def test_no_two_curves_share_colour_and_mark():
    assert len(set(COLOURS)) == len(COLOURS) == len(set(MARKS)) == len(MARKS)

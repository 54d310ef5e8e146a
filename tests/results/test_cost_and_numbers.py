"""What the trainings of a table took, and its numbers as LaTeX macros."""

import re

import pytest
from results_tree import PAPER, make_tree

from clip4vla.errors import UserError
from clip4vla.files import write_json
from clip4vla.results.compare import compare
from clip4vla.results.cost import cost_notes, read_costs
from clip4vla.results.figures import encoded
from clip4vla.results.figures_cost import SHOWN, cost_figure
from clip4vla.results.numbers import UNKNOWN, to_numbers
from clip4vla.results.paper import read_paper
from clip4vla.results.sheet import read_sheet
from clip4vla.results.tidy import build_tidy

V100 = {"hours": 10.0, "gpu_hours": 80.0, "hardware": {"NVIDIA V100": 80.0}, "attempts": 3}


@pytest.fixture
def sheet(tmp_path):
    return read_sheet(make_tree(tmp_path) / "tables/table1/rows.json")


def test_hours_of_the_trainings_that_have_ended(sheet, tmp_path):
    sheet = sheet.model_copy(update={"trainings": ["one", "two", "three"]})
    assert cost_notes(sheet, {}) == []
    write_json(tmp_path / "runs/one/cost.json", V100)
    write_json(
        tmp_path / "runs/two/cost.json", V100 | {"hardware": {"NVIDIA V100": 1.5, "cpu": 0.2}}
    )
    costs = read_costs(["one", "two", "three", "of another table"], tmp_path / "runs")
    assert costs["one"].device_hours == 80.0
    (note,) = cost_notes(sheet, costs)
    assert note.startswith("Cost: 2 of 3 trainings behind the table have ended, with 81.5 h on")
    assert "NVIDIA V100; 12.0 min on cpu" in note


def test_a_file_that_is_no_cost_is_named(tmp_path):
    write_json(tmp_path / "one/cost.json", {"hours": 1})
    with pytest.raises(UserError, match=r"one/cost\.json: not a cost\.json"):
        read_costs(["one"], tmp_path)


def test_cost_figure_has_a_bar_for_each_row_and_one_for_the_rest(tmp_path):
    write_json(tmp_path / "one/cost.json", V100)
    cost = read_costs(["one"], tmp_path)["one"]
    runs = {f"table5/row{n}/msrvtt/s{seed}": cost for n in range(SHOWN + 5) for seed in (0, 1)}
    figure = cost_figure({"pretrain": {"table5/row0/msrvtt": cost}, "finetune": runs})
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels[0] == "table5/row0" and labels[-1] == "5 more rows" and len(labels) == SHOWN + 1
    assert figure.get_suptitle() == "Cost of the trainings: 5,680.0 device hours"
    assert encoded(cost_figure({}), "svg")


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

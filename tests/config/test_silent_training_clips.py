"""Silent clips are left out of training only if the row sets it and reads audio."""

from pathlib import Path

import pytest
import yaml

from clip4vla.config.planner import make_plan
from clip4vla.cost.models import Models
from clip4vla.cost.runs import flops

REPO = Path(__file__).parents[2]
PRESETS = ("ours", "paper", "released", "released_half")


@pytest.fixture(scope="module", params=PRESETS)
def shipped(request):
    return make_plan([REPO / "config.yaml"], {"preset": request.param})


def trainings(plan, table, rows=None):
    """The fine-tuning runs of a table's rows, by (row, dataset)."""
    return {
        (cell.row, cell.dataset): plan.runs[plan.runs[cell.run_key].start]
        for cell in plan.cells
        if cell.table == table and (rows is None or cell.row in rows)
    }


def test_vision_only_rows_keep_their_silent_clips(shipped):
    """9,000 clips of MSR-VTT and all 1,500 validation clips of VATEX; not the 7,867 and 1,427."""
    found = trainings(shipped, "table1", ("vision_only", "temporal"))
    assert len(found) == 4
    models = Models()
    for (_, dataset), run in found.items():
        assert (run.modalities, run.missing_audio, run.substitution) == (["vision"], "none", None)
        every, some = ({(run.train.dataset, run.train.split): (9000, n)} for n in (9000, 7867))
        few, all_ = (flops(shipped, run, counts, models) for counts in (some, every))
        assert few == all_ > 0, dataset
        if run.selected_on is not None:
            assert run.selected_on[1] == "none"


def test_a_filter_of_the_table_applies_to_vision_only_rows_too(shipped):
    """So that V and AV are trained and scored on the same clips."""
    for table in ("table2", "table3", "table4"):
        runs = trainings(shipped, table).values()
        assert {run.missing_audio for run in runs} == {"filter"}, table
        assert ["vision"] in [run.modalities for run in runs]


def test_probes_keep_the_silent_half_of_ucf101(shipped):
    """Policy `none` classifies a silent clip by its frames, in training as at test (facts 9.2)."""
    for (_, dataset), run in trainings(shipped, "table6").items():
        assert run.missing_audio == {"esc50": "filter", "ucf101": "none"}[dataset]


METRICS = {"retrieval": "t2v_R1", "captioning": "CIDEr", "classification": "accuracy"}
POLICIES = {  # of the row: of its silent training clips where only test clips may have donors
    "substitute": "filter",
    "random": "filter",
    "filter": "filter",
    "zeros": "zeros",
    "none": "none",
}


@pytest.mark.parametrize("task", METRICS)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_scope_of_substitution_only_concerns_donors(tmp_path, policy, preset, task):
    both, vision = ["vision", "audio"], ["vision"]
    table = {
        "table": "one",
        "title": "One",
        "gallery": "with_sound",
        "columns": [{"dataset": "demo", "metric": METRICS[task], "label": "number"}],
        "base": {"task": task, "missing_audio": policy, "pretrain": None},
        "rows": [
            {"row": "both", "label": "both", "set": {"modalities": both}, "preset": preset},
            {"row": "vision", "label": "vision", "set": {"modalities": vision}, "preset": preset},
        ],
    }
    on_test = preset.startswith("released")
    table["base"]["finetune"] = {"val": None} if on_test else {"selection": "best_val"}
    table["base"]["finetune"]["optimiser"] = {"epochs": 3}  # released: selects captions from there
    table["base"]["substitute_scope"] = "test"
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(table))
    demo = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
    plan = make_plan(demo, {"experiments": str(tmp_path), "targets": ["one"]})
    runs = trainings(plan, "one")
    both, vision = runs["both", "demo"], runs["vision", "demo"]
    assert both.missing_audio == POLICIES[policy]
    assert vision.missing_audio == ("filter" if policy == "filter" else "none")
    assert (vision.substitution, vision.selected_on[1]) == (None, vision.missing_audio)
    assert both.selected_on[1] == (policy if on_test else both.missing_audio)

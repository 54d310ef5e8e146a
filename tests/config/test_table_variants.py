"""Variants, folds and galleries of tables: their runs, and refused combinations."""

from pathlib import Path

import pytest
import yaml

from clip4vla.common.errors import UserError
from clip4vla.config.planner import make_plan
from clip4vla.config.table import read_table

REPO = Path(__file__).parents[2]
SHIPPED = ["figure4", "policies", "audio_controls", "table6"]


@pytest.fixture(scope="module")
def paper():
    return make_plan([REPO / "config.yaml"], {"targets": ["table1", *SHIPPED]})


def keys_of(plan, table, dataset=None, row=None):
    cells = [c for c in plan.cells if c.table == table and row in (None, c.row)]
    return {c.run_key for c in cells if dataset in (None, c.dataset)}


def test_a_sweep_is_one_evaluation_per_dataset(paper):
    for dataset in ("audiocaps", "msrvtt", "vatex"):
        (key,) = keys_of(paper, "figure4", dataset)
        run = paper.run(key)
        shares = [variant.nonverbal_share for variant in run.variants]
        assert shares == pytest.approx([i / 10 for i in range(11)])
        assert (run.modalities, run.missing_audio, run.substitution) == (["audio"], "filter", None)
    assert paper.sheet("figure4")["sweep"] == "nonverbal_share"
    assert [row["at"] for row in paper.sheet("figure4")["rows"]][:3] == [0.0, 0.1, 0.2]


def test_policies_and_controls_share_evaluations_and_train_nothing(paper):
    keys = keys_of(paper, "policies")
    assert keys == keys_of(paper, "audio_controls")
    assert len(keys) == 6  # two datasets, three seeds
    table1 = {paper.run(key).start for key in keys_of(paper, "table1")}
    for key in keys:
        run = paper.run(key)
        assert run.start in table1
        assert [variant.name for variant in run.variants] == [
            "audio=shuffled",
            "audio=silent",
            "audio=swapped",
            "frames=false",
            "missing_audio=filter",
            "missing_audio=none",
            "missing_audio=random",
            "missing_audio=released_links",
            "missing_audio=zeros",
        ]
        spaces = [paper.run(of).neighbours for of in (run.substitution, run.text_substitution)]
        assert spaces == ["vision", "text"]
        assert {run.substitution, run.text_substitution} < set(paper.parents(key))
        assert paper.run(run.start).substitution == run.substitution  # trained as without the row


def test_captions_choose_donors_only_in_rows_that_set_it():
    """facts 10.2: released_links reads the test captions, and is the default of no preset."""
    for preset in ("ours", "paper", "released", "released_half"):
        plan = make_plan([REPO / "config.yaml"], {"preset": preset})
        by_text = {k for k in plan.stage("substitute") if plan.run(k).neighbours == "text"}
        assert by_text
        for key, cells in plan.rows().items():
            if by_text & set(plan.parents(key)):
                assert {cell.table for cell in cells} <= {"policies", "audio_controls"}
        for name, table in plan.tables.items():
            for row in table.rows:
                if row.variant and row.variant.missing_audio == "released_links":
                    assert (name, row.row) == ("policies", "released_links")
                    assert "reads the test captions" in row.label


def test_a_row_can_be_trained_on_links_by_captions(tmp_path):
    """As the logged run may have been: silent training clips have the sound of text neighbours."""
    (tmp_path / "t.yaml").write_text(
        (REPO / "experiments" / "policies.yaml")
        .read_text()
        .replace("table: policies", "table: t")
        .replace("together_with: [audio_controls]", "")
        .split("rows:")[0]
        + "rows:\n  - {row: one, label: One, set: {missing_audio: released_links}}\n"
    )
    plan = make_plan([REPO / "config.yaml"], {"experiments": str(tmp_path), "targets": ["t"]})
    (evaluated, *_) = map(plan.run, plan.stage("evaluate"))
    tuned = plan.run(evaluated.start)
    assert tuned.missing_audio == evaluated.missing_audio == "released_links"
    assert evaluated.substitution is None
    assert tuned.substitution == evaluated.text_substitution
    assert {plan.run(key).neighbours for key in plan.stage("substitute")} == {"text"}


def test_a_policy_is_shown_in_the_galleries_that_it_has(paper):
    rows = {row["row"]: row["cells"] for row in paper.sheet("policies")["rows"]}
    galleries = {name: {cell["gallery"] for cell in cells} for name, cells in rows.items()}
    assert galleries["filter"] == {"with_sound"}
    assert galleries["zeros"] == {"all", "with_sound"}


def test_folds_are_runs_of_one_cell(paper):
    for dataset, folds in (("esc50", 5), ("ucf101", 3)):
        runs = [paper.run(key) for key in keys_of(paper, "table6", dataset, "clip4vla")]
        assert sorted(run.test.split for run in runs) == [f"test_{k + 1}" for k in range(folds)]
        for run in runs:
            fold, tuned = run.test.split[-1], paper.run(run.start)
            assert tuned.train.split == f"train_ours_{fold}"
            assert tuned.val.split == f"val_ours_{fold}"
            assert tuned.selection == "best_val"
    names = {paper.names()[key] for key in keys_of(paper, "table6", "esc50")}
    assert "table6/clip4vla/esc50/s0/f5" in names
    cells = paper.sheet("table6")["rows"][0]["cells"]
    assert [cell["gallery"] for cell in cells] == ["with_sound"] * 5 + ["all"] * 3


@pytest.mark.parametrize(("preset", "row"), [("ours", "official_lists"), ("paper", "clip4vla")])
def test_probes_on_the_official_lists_keep_the_last_epoch(preset, row):
    """1,600 clips of ESC-50 and all groups of UCF101: nothing is left to select on."""
    plan = make_plan([REPO / "config.yaml"], {"targets": ["table6"], "preset": preset})
    for dataset, folds, clips in (("esc50", 5, [1600] * 5), ("ucf101", 3, [9537, 9586, 9624])):
        cells = [c for c in plan.cells if (c.row, c.dataset, c.seed) == (row, dataset, 0)]
        tuned = [plan.run(plan.run(cell.run_key).start) for cell in cells]
        assert [run.train.split for run in tuned] == [f"train_{k + 1}" for k in range(folds)]
        assert {(run.val, run.test, run.selection) for run in tuned} == {(None, None, "last")}
        expected = plan.config.datasets[dataset].expected_clips
        assert [expected(run.train.split) for run in tuned] == clips


def test_table_2_has_audio_only_from_the_second_stage_too():
    """Else A and AV would differ by their pre-training as well."""
    plan = make_plan([REPO / "config.yaml"], {"targets": ["table2"]})
    runs = {}
    for row in ("clip4vla_a", "clip4vla_a_second", "global_to_global"):
        (key,) = {c.run_key for c in plan.cells if (c.row, c.seed) == (row, 0)}
        runs[row] = plan.run(plan.run(key).start)
    a, second, av = runs.values()
    assert second.start == av.start != a.start
    assert second.model_copy(update={"start": a.start}) == a
    assert second.model_copy(update={"modalities": av.modalities}) == av


BASE = """
experiments: experiments
targets: [t]
datasets:
  d: {reader: demo, annotations: x}
weights: {w: {path: w.pt}}
"""
TABLE = """
table: t
title: T
columns: [{dataset: d, metric: t2v_R1, label: "R@1"}]
base: {model.weights: w}
rows:
  - {row: one, label: one}
  - {row: two, label: two, variant: {audio: silent}}
"""


@pytest.fixture
def project(tmp_path):
    def write(*changes, others=()):
        value = yaml.safe_load(TABLE)
        for change in changes:
            value |= change
        (tmp_path / "experiments").mkdir(exist_ok=True)
        for table in (value, *others):
            (tmp_path / "experiments" / f"{table['table']}.yaml").write_text(yaml.safe_dump(table))
        (tmp_path / "config.yaml").write_text(BASE)
        return make_plan([tmp_path / "config.yaml"])

    return write


def rows(*variants, **changes):
    return {
        "rows": [
            {"row": f"r{i}", "label": "r", **changes} | ({"variant": v} if v is not None else {})
            for i, v in enumerate(variants)
        ]
    }


def test_without_variants_nothing_changes(project):
    plain = {cell.run_key for cell in project(rows(None)).cells}
    assert {cell.run_key for cell in project(rows(None, {})).cells} == plain
    both = {cell.run_key for cell in project(rows(None, {"audio": "silent"})).cells}
    assert len(both) == 1 and both != plain


def test_a_row_of_another_recipe_is_another_evaluation(project):
    other = {"row": "x", "label": "x", "set": {"inputs.max_frames": 3}}
    plan = project({"rows": [*yaml.safe_load(TABLE)["rows"], other]})
    runs = {cell.row: plan.run(cell.run_key) for cell in plan.cells}
    assert runs["one"] == runs["two"] and runs["one"].variants
    assert runs["x"].variants == []


def test_donors_are_searched_when_only_a_variant_needs_them(project):
    plan = project(
        {"base": {"model.weights": "w", "missing_audio": "none"}},
        rows(None, {"missing_audio": "random"}),
    )
    (key,) = plan.stage("substitute")
    (run,) = (plan.run(key) for key in plan.stage("evaluate"))
    assert (run.missing_audio, run.substitution) == ("none", key)
    assert (
        project(rows(None), {"base": {"model.weights": "w", "missing_audio": "none"}}).stage(
            "substitute"
        )
        == []
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([rows({"audio": "quiet"})], "variant.audio: Input should be 'own', 'silent'"),
        ([rows({"sound": "own"})], "variant.sound: unknown key"),
        (
            [rows({"audio": "silent"}), {"base": {"modalities": ["vision"], "model.weights": "w"}}],
            "row r0: variant audio=silent: the row's modalities have no audio",
        ),
        (
            [rows({"audio": "silent", "frames": False})],
            "audio=silent, frames=false: nothing is left to score",
        ),
        (
            [
                rows({"nonverbal_share": 0.2}),
                {"base": {"model.weights": "w", "model.type_token": "none"}},
            ],
            "nonverbal_share only has an effect with model.type_token: single",
        ),
        ([rows({"missing_audio": "filter"})], "missing_audio: filter leaves only clips with sound"),
        ([{"sweep": "nonverbal_share"}], "row one: its variant has no nonverbal_share"),
        ([{"together_with": ["t"]}], "together_with: t is the table itself"),
        ([{"together_with": ["u"]}], "no table 'u'"),
        ([{"folds": {"d": [1, 2]}}], r"a dataset with `folds` needs \{fold\}"),
        ([{"folds": {"d": []}}], "folds.d: empty or duplicates. Fix: list each fold once"),
        ([{"folds": {"e": [1]}}], "folds.e: no column has this dataset"),
        ([{"galleries": {"e": "all"}}], "galleries.e: no column has this dataset"),
        (
            [{"base": {"model.weights": "w", "test": "test_{fold}"}}],
            r"\{fold\} needs folds.d",
        ),
    ],
)
def test_impossible_tables_are_refused_in_one_line(project, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        project(*changes)
    assert len(str(caught.value).splitlines()) <= 2
    assert "t.yaml:" in str(caught.value) or "targets" in str(caught.value)


def test_every_shipped_table_can_be_read():
    for folder in ("experiments", "demo/experiments"):
        for path in sorted((REPO / folder).glob("*.yaml")):
            assert read_table(path.parent, path.stem)[0].table == path.stem


@pytest.mark.parametrize(("scope", "trained"), [("test", "filter"), ("train+test", "substitute")])
def test_silent_training_clips_are_left_out_or_treated_like_those_of_the_test(
    project, scope, trained
):
    plan = project(
        {"base": {"model.weights": "w", "substitute_scope": scope, "finetune": {}}}, rows(None)
    )
    (tuned,) = (plan.run(key) for key in plan.stage("finetune"))
    (scored,) = (plan.run(key) for key in plan.stage("evaluate"))
    assert (tuned.missing_audio, scored.missing_audio) == (trained, "substitute")
    assert (tuned.substitution is None) == (scope == "test")

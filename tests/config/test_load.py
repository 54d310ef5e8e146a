"""The user's config: merging, paths, and errors of one line with file, line and key."""

import json
import re
import textwrap
from pathlib import Path

import pytest

from clip4vla.cli.options import overrides_of
from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.config.families import FAMILIES
from clip4vla.config.load import Config, load_config
from clip4vla.config.planner import make_plan
from clip4vla.config.yaml import read_yaml
from clip4vla.results.sheet import Sheet

REPO = Path(__file__).parents[2]
BASE = """
targets: [t]
experiments: tables
datasets:
  d: {reader: demo, annotations: notes, expected: {test: 3}}
"""
TABLE = """
table: t
title: T
columns:
  - {dataset: d, metric: t2v_R1, label: "R@1"}
base: {model: {architecture: tiny, weights: null}}
rows:
  - row: one
    label: One
    set: {pretrain: null}
"""


@pytest.fixture
def project(tmp_path):
    """Write config.yaml, a table and overrides; give the plan of them."""

    def write(config=BASE, table=TABLE, overrides=None, values=None):
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / "config.yaml").write_text(textwrap.dedent(config))
        (tmp_path / "tables" / "t.yaml").write_text(textwrap.dedent(table))
        files = [tmp_path / "config.yaml"]
        if overrides is not None:
            (tmp_path / "mine.yaml").write_text(textwrap.dedent(overrides))
            files.append(tmp_path / "mine.yaml")
        return make_plan(files, values)

    return write


def message(project, **texts) -> str:
    with pytest.raises(UserError) as caught:
        project(**texts)
    return str(caught.value)


def test_a_valid_project_has_its_runs(project):
    plan = project()
    assert [run.stage for run in plan.runs.values()].count("evaluate") == 1
    assert plan.stage("finetune") == []  # no finetune section: zero-shot
    assert plan.names()[plan.cells[0].run_key] == "t/one/d"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("targets: [t]", "targets: [t]\ntargetz: [t]"), "config.yaml:3: targetz: unknown key; did you mean targets"),
        (("targets: [t]", ""), "config.yaml: targets: missing"),
        (("reader: demo", "reader: demo, shard: 2"), "datasets.d.shard: unknown key; did you mean shards"),
        (("reader: demo", "reader: demo, shards: many"), "config.yaml:5: datasets.d.shards: Input should"),
        (("targets: [t]", "targets: t"), "config.yaml:2: targets: Input should be a valid list"),
        (("targets: [t]", "targets: [t]\ntargets: [t]"), "config.yaml:3: targets: duplicate key"),
        (("targets: [t]", "targets: [t"), "config.yaml:3: not valid YAML"),
        (("targets: [t]", "targets: [u]"), "no table 'u'"),
        (("reader: demo, ", ""), "datasets.d.reader: missing"),
        (("experiments: tables", "preset: mine"), "config.yaml:3: preset: Input should be 'ours'"),
        (("targets: [t]", "targets: [t, t]"), "config.yaml:2: targets: duplicate t. Fix: name each once"),
        (("targets: [t]", "targets: [../config]"), "config.yaml:2: targets.0: String should match"),
        (("reader: demo", "reader: demo, shards: yes"), "config.yaml:5: datasets.d.shards: must be a number, not true"),
        (("expected: {test: 3}", "expected: {test: {clips: true}}"), "config.yaml:5: datasets.d.expected.test.clips: must be a number"),
        (("reader: demo", "reader: demo, rate: 3, rate.slots: 4"), "config.yaml:5: datasets.d.rate.slots: datasets.d.rate has a value on line 5. Fix: remove one"),
        (("reader: demo", "rate.slots: 4, reader: demo, rate: null"), "config.yaml:5: datasets.d.rate: its nested keys are set on line 5. Fix: remove one"),
        (("reader: demo", "reader: 2023-13-45"), "config.yaml: not valid YAML: month must be in 1..12"),
    ],
)  # fmt: skip
def test_an_error_in_the_config_is_one_line(project, change, expected):
    text = message(project, config=BASE.replace(*change))
    assert expected in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("pretrain: null", "inputs.max_frame: 3"), "t.yaml:10: table t, row one: inputs.max_frame: unknown key; did you mean max_frames"),
        (("pretrain: null", "inputs: {max_frames: x}"), "t.yaml:10: table t, row one: inputs.max_frames: Input"),
        (("pretrain: null", "modalities: [smell]"), "modalities.0: Input should be 'audio' or 'vision'"),
        (("pretrain: null", "modalities: [audio], missing_audio: zeros"), "nothing to score"),
        (("pretrain: null", "modalities: [audio, audio]"), "modalities: duplicates"),
        (("pretrain: null", "task: captioning"), "needs a `finetune` section"),
        (("pretrain: null", "finetune: {val: null}"), "selection: best_val needs a val split"),
        (("pretrain: null", "pretrain: {seed: 1}"), "nothing to train on. Fix: set `sources`"),
        (("pretrain: null", "task: captioning, finetune: {}, inputs.max_words: 77"), "has 77 positions"),
        (("pretrain: null", "finetune: {}, inputs.max_segments: 70, model.fusion: tight"), "has 77 positions"),
        (("pretrain: null", "finetune: {}, inputs.max_segments: 500, model: {fusion: tight, joint: bert}"), "has 512 positions"),
        (("pretrain: null", "finetune: {}, task: captioning, model.fusion: tight"), "tight is for task: retrieval"),
        (("pretrain: null", "model.fusion: global_to_local"), "global_to_local has weights to train. Fix: add `finetune`"),
        (("pretrain: null", "finetune: {}, modalities: [vision], model.fusion: query2sim"), "weighs vision against audio. Fix: name both"),
        (("pretrain: null", "model.fusion: cross"), "model.fusion: Input should be 'global_to_global'"),
        (("pretrain: null", "decoding.method: beam"), "decoding: task retrieval writes no captions"),
        (("pretrain: null", "finetune: {}, task: classification, missing_audio: released_links"), "missing_audio: released_links compares captions"),
        (("pretrain: null", "inputs.extra_word: true"), "inputs.extra_word: task retrieval writes no captions"),
        (("pretrain: null", "pretrain: {sources: [{dataset: d, nonverbal_share: 1}], inputs.extra_word: true}"), "inputs.extra_word: pre-training writes no captions"),
        (("pretrain: null", "finetune: {}, task: captioning, decoding.beams: 3"), "decoding: beams only has an effect with method: beam"),
        (("pretrain: null", "finetune: {}, task: captioning, decoding: {method: beam, top_p: 0.5}"), "t.yaml:10: table t, row one: decoding.top_p: this option was removed. Fix: remove the key"),
        (("pretrain: null", "finetune: {}, task: captioning, decoding.positions: sliding"), "decoding: positions: sliding cannot be cached. Fix: set cache: false"),
        (("pretrain: null", "finetune: {}, task: captioning, decoding.beams: 0"), "decoding.beams: Input should be greater"),
        (("pretrain: null", "cache.log_mel.f_max: 9000"), "above half the sample rate"),
        (("pretrain: null", "cache.log_mel.n_mels: 80"), "must be 224"),
        (("pretrain: null", "model.weights: openai"), "no weights 'openai' in the config"),
        (("pretrain: null", "pretrain.sources: [{dataset: e, nonverbal_share: 1}]"), "no dataset 'e'"),
        (("pretrain: null", "pretrain: {sources: [{dataset: d, nonverbal_share: 2}]}"), "less than or equal to 1"),
        (("row: one", "row: One"), "rows.0.row: String should match pattern"),
        (("title: T", "title: T\ncomparable: false"), "t.yaml:4: comparable: false needs a reason. Fix: write it in `note`"),
        (("table: t", "table: u"), "table: 'u' is not the name of the file. Fix: write 't'"),
        (("base: {", "datasets: {e: {}}\nbase: {"), "no column has this dataset"),
        (("pretrain: null", "missing_audio: filter"), "Fix: set gallery: with_sound in the table"),
        (("rows:", "rows:\n  - {row: one, label: Again}"), "duplicate row 'one'"),
        (("label: One", "label: One\n    seeds: [1, 1]"), "t.yaml:10: rows.0.seeds: duplicate 1"),
        (("label: One", "label: One\n    seeds: []"), "t.yaml:10: rows.0.seeds: List should have at least 1"),
        (("title: T", "title: T\nseeds: [0, 0]"), "t.yaml:4: seeds: duplicate 0"),
        (("title: T", "title: T\nseeds: [true]"), "t.yaml:4: seeds: must be a number"),
        (("title: T", "title: T\ntogether_with: [../config]"), "t.yaml:4: together_with.0: String should match"),
        (("title: T", "title: ''"), "t.yaml:3: title: must be one line of text"),
        (("label: One", 'label: "1\\nScratch"'), "t.yaml:9: rows.0.label: must be one line of text"),
        (('label: "R@1"', 'label: " "'), "t.yaml:5: columns.0.label: must be one line of text"),
        (("pretrain: null", "pretrain: null, pretrain.seed: 4"), "t.yaml:10: rows.0.set.pretrain.seed: rows.0.set.pretrain has a value on line 10"),
        (("base: {model:", "base: {model: scratch, model.type_token: none, inputs:"), "t.yaml:6: base.model.type_token: base.model has a value"),
        (("base: {model:", "base: &a {x: *a, model:"), "t.yaml:6: base.x: an alias (*name) contains itself"),
        (("pretrain: null", "finetune.optimiser: {epochs: true}"), "t.yaml:10: table t, row one: finetune.optimiser.epochs: must be a number"),
        (("pretrain: null", "finetune.optimiser.lr: true"), "finetune.optimiser.lr: must be a number"),
        (("pretrain: null", "inputs.max_frames: yes"), "inputs.max_frames: must be a number"),
        (("pretrain: null", "nonverbal_share: true"), "nonverbal_share: must be a number"),
    ],
)  # fmt: skip
def test_an_error_in_a_row_names_file_row_and_key(project, change, expected):
    text = message(project, table=TABLE.replace(*change))
    assert expected in text
    assert "t.yaml:" in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["report", "evaluate", "coverage"])
def test_a_table_cannot_have_the_name_of_a_target_or_rule_or_figure(tmp_path, project, name):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / f"{name}.yaml").write_text(TABLE.replace("table: t", f"table: {name}"))
    text = message(project, overrides=f"targets: [{name}]")
    assert f"{name}.yaml:2: table: '{name}' is a target, a rule or a figure" in text
    assert "choose another name" in text and "\n" not in text


def test_every_error_has_its_own_line(project):
    text = message(project, config=BASE.replace("targets: [t]", "targetz: [t]\npresett: ours"))
    assert len(text.splitlines()) == 3  # two unknown keys, and `targets` is missing


def test_overrides_win_and_keep_the_rest(project):
    plan = project(overrides="datasets.d.shards: 7")
    dataset = plan.config.datasets["d"]
    assert (dataset.shards, dataset.expected_clips("test")) == (7, 3)


def test_expected_is_a_number_or_a_section(project):
    overrides = "datasets.d.expected: {test: {clips: 5, with_sound: 4, tolerance: 0.1}, train: 7}"
    expected = project(overrides=overrides).config.datasets["d"].expected
    assert (expected["test"].clips, expected["test"].with_sound) == (5, 4)
    assert (expected["train"].clips, expected["train"].tolerance) == (7, 0.02)
    text = message(project, overrides="datasets.d.expected.test: {clipz: 5}")
    assert "datasets.d.expected.test.clipz: unknown key; did you mean clips?" in text
    text = message(project, overrides="datasets.d.expected.test: many")
    assert text.startswith("mine.yaml:1: datasets.d.expected.test: ") or "expected.test" in text


def test_an_error_in_the_overrides_names_that_file(project):
    assert "mine.yaml:1: datasets.d.shards" in message(project, overrides="datasets.d.shards: 0")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("\npreset: orus", "mine.yaml:2: preset: Input should be"),
        ("experiments: tables\ndatasets.d: {shards: 0}", "mine.yaml:2: datasets.d.shards: Input"),
        ("recipe.inputs.max_frames: 0", "mine.yaml:1: table t, row one: inputs.max_frames: Input"),
    ],
)
def test_an_error_in_a_key_of_both_files_names_the_overrides(project, overrides, expected):
    config = BASE + "preset: ours\nrecipe: {inputs: {max_frames: 2}}\n"
    assert expected in message(project, config=config, overrides=overrides)


def test_dotted_keys_and_a_mapping_are_joined_in_any_order(project):
    for overrides in (
        "datasets.d.shards: 7\ndatasets: {d: {fetch_pass: 2}}",
        "datasets: {d: {fetch_pass: 2}}\ndatasets.d.shards: 7",
    ):
        dataset = project(overrides=overrides).config.datasets["d"]
        assert (dataset.shards, dataset.fetch_pass) == (7, 2)


def test_an_empty_table_is_an_error(project):
    text = message(project, table="# nothing yet\n")
    assert text.endswith("t.yaml: empty table. Fix: write title, columns and rows (docs/config.md)")


def test_an_empty_file_of_overrides_changes_nothing(project):
    assert project(overrides="# nothing yet\n").runs == project().runs


@pytest.mark.parametrize("values", ["[1]", "5", '"x"', "null"])
def test_the_command_line_takes_an_object(values):
    with pytest.raises(UserError, match="--set: .* is not a JSON object. Fix: pass an object"):
        overrides_of(values)


def test_values_of_the_command_line_win(project):
    plan = project(overrides="datasets.d.shards: 7", values={"datasets": {"d": {"shards": 2}}})
    assert plan.config.datasets["d"].shards == 2


def test_an_invalid_value_of_the_command_line_names_the_command_line(project):
    assert message(project, values={"presett": "ours"}).startswith("command line: presett: unknown")
    config = BASE + "preset: ours\n"
    text = message(project, config=config, values={"preset": "orus"})
    assert text.startswith("command line: preset: Input should be")
    text = message(project, values={"recipe.inputs": {"max_frames": 0}})
    assert text.startswith("command line: table t, row one: inputs.max_frames: Input")
    text = message(project, values={"recipe": None, "recipe.inputs.max_frames": 1})
    assert text.startswith("command line: recipe.inputs.max_frames: recipe has a value already")


def test_paths_are_relative_to_their_file(project, tmp_path):
    dataset = project().config.datasets["d"]
    assert dataset.annotations == tmp_path.resolve() / "notes"


def test_a_missing_config_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such config file"):
        load_config([tmp_path / "none.yaml"])


def test_a_folder_or_an_unreadable_encoding_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)\. Fix: name a file"):
        read_yaml(tmp_path)
    (tmp_path / "x.yaml").write_bytes("a: 1".encode("utf-16"))
    with pytest.raises(UserError, match=r"x\.yaml: cannot be read as text.*Fix: save it in UTF-8"):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a: [1", ":2: not valid YAML: .* Fix: correct the brackets"),
        ("a:\n\t- b", ":2: not valid YAML: .* Fix: indent with spaces"),
        ("a: b: c", ":1: not valid YAML: .* Fix: indent it like"),
        ("a: !foo 3", ":1: not valid YAML: .* Fix: remove the tag"),
        ("a: *x", ":1: not valid YAML: .* Fix: name its anchor"),
        ("a: &x 1\nb: &x 2", ":2: not valid YAML: .* Fix: rename one"),
        ("a: 1\n---\nb: 2", ":2: not valid YAML: .* Fix: keep one document"),
        (r'a: "\q"', ":1: not valid YAML: .* Fix: put text"),
        ("a: \x00", ": not valid YAML: .* Fix: remove it"),
        ("<<: 3", ":1: not valid YAML: .* Fix: give `<<` an alias"),
        ("? [a]\n: 1", ":1: a key is not text. Fix: write"),
        (f"a: {'1' * 5000}", ": not valid YAML: .* 5000 digits. Fix: correct the date or number"),
        ("a: !!int ''", ": not valid YAML: .* Fix: correct the date or number"),
        ("a: !!bool x", ": not valid YAML: .* Fix: correct the date or number"),
        ("a: !!timestamp x", ": not valid YAML: .* Fix: correct the date or number"),
    ],
)
def test_invalid_yaml_is_one_line_with_a_fix(tmp_path, text, expected):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^.*x\.yaml{expected}"):
        read_yaml(path)


ALIASES = {  # of a level: what it makes of the level below
    "values": "a{0}: &a{0} {{p: *a{1}, q: *a{1}}}",
    "items": "a{0}: &a{0} [*a{1}, *a{1}]",
    "merged": "a{0}: &a{0} {{<<: [*a{1}, *a{1}]}}",
}


@pytest.mark.parametrize("level", [*ALIASES.values()], ids=[*ALIASES])
def test_aliases_of_aliases_are_refused_at_once(tmp_path, level):
    path = tmp_path / "x.yaml"
    lines = ["a0: &a0 {x: 1}", *(level.format(n, n - 1) for n in range(1, 26))]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"x\.yaml: more than 100,000 values .* Fix: use fewer"):
        read_yaml(path)
    path.write_text("\n".join(lines[:4]))
    assert read_yaml(path).value["a3"]


def test_rows_of_a_disabled_dataset_are_not_run(project):
    plan = project(overrides="datasets.d.enabled: false")
    assert plan.runs == {}
    assert plan.without_data["t", "one", "d"] == "no data: d disabled"
    (cell,) = plan.sheet("t")["rows"][0]["cells"]
    assert (cell["run_key"], cell["no_data"]) == (None, "no data: d disabled")


def test_a_row_runs_on_the_enabled_datasets(project):
    """One of two datasets is disabled: half of the row is run, the other half says why not."""
    config = BASE.replace(
        "expected: {test: 3}}", "enabled: false}\n  e: {reader: demo, annotations: x}"
    )
    column = '  - {dataset: e, metric: t2v_R1, label: "R@1"}\nbase:'
    plan = project(config=config, table=TABLE.replace("base:", column))
    assert [cell.dataset for cell in plan.cells] == ["e"]
    assert list(plan.without_data) == [("t", "one", "d")]
    cells = plan.sheet("t")["rows"][0]["cells"]
    assert [(cell["dataset"], cell["no_data"] is None) for cell in cells if "no_data" in cell] == [
        ("d", False)
    ]
    Sheet.model_validate(plan.sheet("t"))


BASES = BASE + "bases:\n  small: {inputs: {max_frames: 2, max_words: 9}}\n"


def test_a_table_extends_a_base_of_the_config(project):
    """The base is above `recipe` and below the table's own, and files of overrides change it."""
    table = TABLE.replace("base: {", "extends: small\nbase: {inputs.max_words: 8, ")
    config = BASES + "recipe.inputs: {max_frames: 3, max_segments: 4}\n"
    plan = project(config=config, table=table)
    inputs = plan.runs[plan.cells[0].run_key].inputs
    assert (inputs.max_frames, inputs.max_words, inputs.max_segments) == (2, 8, 4)
    written_out = TABLE.replace("base: {", "base: {inputs: {max_frames: 2, max_words: 8}, ")
    config = BASE + "recipe.inputs.max_segments: 4\n"
    assert project(config=config, table=written_out).runs == plan.runs
    overrides = "bases.small.inputs.max_frames: 5"
    plan = project(config=BASES, table=table, overrides=overrides)
    assert plan.runs[plan.cells[0].run_key].inputs.max_frames == 5


def test_a_layer_that_names_another_family_replaces_the_model_below_it(project, monkeypatch):
    """So that a config of one family's models can have rows of the other."""
    monkeypatch.setitem(FAMILIES, "toy", "toy")
    table = TABLE.replace("base: {", "base: {missing_audio: none, ")
    config = BASE + "recipe.model: {joint_layers: 1}\n"
    toy = table.replace("pretrain: null", "pretrain: null, model: {family: toy, dim: 8}")
    plan = project(config=config, table=toy)
    assert plan.runs[plan.cells[0].run_key].model.dim == 8
    plan = project(config=config, table=table.replace("null}\n", "null, model.family: clip4vla}\n"))
    model = plan.runs[plan.cells[0].run_key].model
    assert (model.architecture, model.joint_layers) == ("tiny", 1)
    text = message(
        project,
        config=BASE + "recipe.model: {family: toy, dmi: 1}\n",
        table="""
        table: t
        title: T
        columns: [{dataset: d, metric: t2v_R1}]
        rows: [{row: one, label: One}]
        """,
    )
    assert "model.dmi: unknown key; did you mean dim" in text


def test_a_row_extends_another_base_than_its_table_and_changes_one_dataset(project):
    """The row's change of a dataset is above everything else."""
    config = BASES.replace(
        "expected: {test: 3}}", "expected: {test: 3}}\n  e: {reader: demo, annotations: notes}"
    )
    config += "  large: {inputs: {max_frames: 7, max_words: 30}}\n"
    two = """
  - row: two
    label: Two
    extends: large
    set: {pretrain: null, inputs.max_segments: 3}
    datasets: {e: {inputs.max_segments: 5}}
"""
    table = TABLE.replace("base:", "  - {dataset: e, metric: t2v_R1}\nextends: small\nbase:") + two
    plan = project(config=config, table=table)
    inputs = {(c.row, c.dataset): plan.runs[c.run_key].inputs for c in plan.cells}
    assert {key: (i.max_frames, i.max_words, i.max_segments) for key, i in inputs.items()} == {
        ("one", "d"): (2, 9, 10),
        ("one", "e"): (2, 9, 10),
        ("two", "d"): (7, 30, 3),
        ("two", "e"): (7, 30, 5),
    }
    text = message(project, config=config, table=table.replace("{e: {", "{f: {"))
    assert "rows.1.datasets.f: no column has this dataset. Fix: remove it" in text
    text = message(project, config=config, table=table.replace("extends: large", "extends: larg"))
    assert "t.yaml:16: extends: no base 'larg' in `bases` of the config; did you mean" in text
    text = message(project, config=config, table=table.replace("s: 5", "s: five"))
    assert "t.yaml:18: table t, row two: inputs.max_segments" in text


def test_a_column_is_headed_by_its_metric_unless_it_has_a_label(project):
    column = "  - {dataset: d, metric: v2t_MedR}\nbase:"
    columns = project(table=TABLE.replace("base:", column)).sheet("t")["columns"]
    assert [column["label"] for column in columns] == ["R@1", "MedR (v2t)"]


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        (BASES, "smal", "t.yaml:6: extends: no base 'smal' in `bases` of the config; did you mean"),
        (
            BASES.replace("max_words", "max_wrds"),
            "small",
            "config.yaml:7: table t, row one: inputs",
        ),
    ],
)
def test_an_error_in_a_base_or_its_name_is_one_line(project, config, name, expected):
    table = TABLE.replace("base: {", f"extends: {name}\nbase: {{")
    text = message(project, config=config, table=table)
    assert expected in text and "\n" not in text


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("{inputs: {max_wrds: 9}}", "inputs.max_wrds: unknown key; did you mean max_words"),
        ("{pretrain.optimser.lr: 1}", "pretrain.optimser: unknown key; did you mean optimiser"),
        ("{model: {fusoin: tight}}", "model.fusoin: unknown key; did you mean fusion"),
        ("{model: {family: nope}}", "model.family: 'nope' is no model family"),
        ("{inputs: {max_words: nine}}", "inputs.max_words: Input should be a valid integer"),
        ("{inputs: 3}", "inputs: must be a mapping of keys to values"),
    ],
)
def test_an_error_in_a_base_that_no_row_uses_is_one_line(project, base, expected):
    text = message(project, config=BASE + f"bases:\n  small: {base}\n")
    assert f"config.yaml:7: bases.small.{expected}" in text and "\n" not in text


def test_a_base_that_no_row_uses_may_be_part_of_a_recipe(project):
    """Here without the sources of a pre-training, and with a fusion for another task's rows."""
    part = "{pretrain: {seed: 1}, task: captioning, model.fusion: tight}"
    assert project(config=BASE + f"bases:\n  small: {part}\n").runs


def test_the_shipped_configs_are_valid():
    repo = Path(__file__).parents[2]
    assert make_plan([repo / "config.yaml"]).runs
    assert make_plan([repo / "config.yaml", repo / "demo" / "config.yaml"]).runs


@pytest.mark.parametrize("name", ["My-Data", "a-b", "A", "é", "a b", ""])
def test_a_dataset_name_that_cannot_be_part_of_a_target_is_refused(tmp_path, name):
    """It stands in `data/<name>-<version>-<hash>/`, whose parts are told apart by hyphens."""
    path = tmp_path / "config.yaml"
    path.write_text(f'targets: [t]\ndatasets:\n  "{name}": {{reader: demo, annotations: notes}}\n')
    with pytest.raises(UserError, match=r"config\.yaml:2: datasets: .* Fix: use only lower-case"):
        load_config([path])


@pytest.mark.parametrize("preset", ["ours", "paper", "released", "released_half"])
@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"pretrain": 5}, "pretrain"),
        ({"pretrain": [1]}, "pretrain"),
        ({"pretrain": True}, "pretrain"),
        ({"pretrain": {"trainable": "all", "objective": 5}}, "pretrain.objective"),
        ({"model": 5}, "model"),
        ({"model": "x"}, "model"),
        ({"model": [1]}, "model"),
        ({"model": {"fusion": [1]}}, "model.fusion"),
        ({"model": {"family": ["a"]}}, "model.family"),
        ({"model": {"family": {"a": 1}}}, "model.family"),
        ({"model": {"weights": ""}}, "model.weights"),
        ({"test": ""}, "test"),
        ({"decoding": {"top_p": True}}, "decoding.top_p"),
        ({"decoding": {"no_repeat_ngram": False}}, "decoding.no_repeat_ngram"),
    ],
)
def test_sections_of_a_wrong_shape_are_named(project, preset, values, key):
    table = TABLE.replace("{pretrain: null}", json.dumps(values))
    found = message(project, table=table, values={"preset": preset})
    assert all(line.count("Fix: ") == 1 for line in found.splitlines())
    assert f"row one: {key}: " in found


KEYS = [*Config.model_fields, *(f"datasets.msrvtt.{name}" for name in Dataset.model_fields)]


@pytest.mark.parametrize("value", [None, 3.5, True, [1], {"a": 1}], ids=repr)
def test_a_wrong_type_is_named_in_words_and_under_its_own_key(value):
    refused = {}
    for key in KEYS:
        try:
            load_config([REPO / "config.yaml"], {key: value})
        except UserError as error:
            refused |= dict.fromkeys(str(error).splitlines(), key)
    assert {"experiments", "paper", "targets", "datasets.msrvtt.annotations"} <= {*refused.values()}
    for line, key in refused.items():
        assert re.match(rf"command line: {re.escape(key)}(\.\w+)?: ", line), line
        assert not re.search(r"<class|\bNone\b", line) and ". Fix: " in line
    if value is None:
        at = "command line: experiments: must be a path (found null)"
        assert f"{at}. Fix: give a value, or remove the key" in refused

"""`clip4vla runs`: list, show, compare and remove runs."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4vla.cli.main import app
from clip4vla.common.errors import UserError
from clip4vla.common.files import sole_owner, write_json
from clip4vla.config.planner import make_plan, used_keys
from clip4vla.runs import listing as run_list
from clip4vla.runs.removal import remove, unused
from clip4vla.tracking import write_record

REPO = Path(__file__).parents[2]
CONFIG = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
OPTIONS = [part for path in CONFIG for part in ("-c", str(path))]
STRAY = "0123456789ab"


@pytest.fixture(scope="module")
def plan():
    return make_plan(CONFIG)


def metrics(key, r1):
    """Write the metrics.json of an evaluation."""
    texts = ("dataset", "data_version", "manifest_sha256", "split", "missing_audio")
    counts = {"expected": None, "planned": 30, "usable": 30, "silent": 0, "scored": 30}
    gallery = {"protocol": "test", "n_queries": 30, "n_gallery": 30, "ids_sha256": "0" * 64}
    found = dict.fromkeys(texts, "x") | {"run_key": key, "protocol": "test", "gallery": "all"}
    found |= {"task": "retrieval", "selection": None, "tie_rule": None, "interval_rule": ""}
    found |= {"coverage": counts | {"captions_per_clip": None}}
    return found | {"galleries": {"all": gallery | {"metrics": {"t2v_R1": r1}}}}


@pytest.fixture
def here(plan, tmp_path, monkeypatch):
    """Make two finished evaluations, one unfinished training, and a run of an older config."""
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in plan.cells if cell.table == "demo_retrieval" and cell.seed == 0]
    for number, cell in enumerate(cells[:2]):
        folder = Path("results/runs", cell.run_key)
        write_json(folder / "config.json", plan.runs[cell.run_key].scientific())
        write_json(folder / "metrics.json", metrics(cell.run_key, 10.0 + number))
        for name in ("predictions.parquet", "examples.html"):
            (folder / name).touch()
        files = [folder / "config.json", folder / "metrics.json"]
        place = folder / "record.json"
        write_record(place, kind="evaluate", key=cell.run_key, name="x", artifacts=files)
    training = plan.runs[cells[0].run_key].start
    Path("runs", training, "state").mkdir(parents=True)
    Path("runs", training, "state", "step-000012.pt").touch()
    Path("results/runs", STRAY).mkdir()
    Path("results/runs", STRAY, "model.safetensors").write_bytes(b"x" * 1000)
    Path("runs", STRAY).mkdir()
    return [cell.run_key for cell in cells[:2]] + [training]


def test_runs_are_listed_with_state_number_and_row(plan, here):
    listed = {run.key: run for run in run_list.list_runs(plan)}
    assert listed.keys() == plan.runs.keys()
    assert listed[here[0]].state == "done"
    assert listed[here[0]].number == "t2v_R1 10.0 (N 30)"
    assert listed[here[2]].state == "saved at step 12"
    assert listed[here[0]].name.startswith("demo_retrieval/")


def test_a_run_is_shown(here):
    shown = run_list.show(here[0])
    assert shown["config"]["stage"] == "evaluate"
    assert shown["numbers"]["galleries/all/metrics/t2v_R1"] == 10.0
    with pytest.raises(UserError, match="no outputs found"):
        run_list.show("../../etc/pa")
    with pytest.raises(UserError, match="not finished"):
        run_list.show(STRAY)


def test_a_run_on_its_way_is_shown_by_the_plan(plan, here):
    row = {"started_ms": 1, "seconds": 2.0, "end": "error"}
    Path("runs", here[2], "attempts.jsonl").write_text(json.dumps(row) + '\n{"started_ms": 3, "s')
    write_json(Path("runs", here[2], "attempt.json"), {"id": "x", "end": "under way"})
    shown = run_list.show(here[2], lambda: plan)
    assert shown["config"] == plan.runs[here[2]].scientific()
    assert (shown["state"], shown["numbers"], shown["files"]) == ("saved at step 12", {}, [])
    assert shown["attempts"] == [row, {"id": "x", "end": "under way, or killed"}]
    settings, found = run_list.differences(here[0], here[2], lambda: plan)
    assert settings["stage"][0] == "evaluate" and not found
    done = CliRunner().invoke(app, ["runs", "show", here[2], *OPTIONS])
    assert done.exit_code == 0 and json.loads(done.output)["state"] == "saved at step 12"


def test_changed_outputs_are_reported_with_the_fix(plan, here):
    """An edit of the config, of a number, and the numbers of another run."""
    folders = [Path("results/runs", key) for key in here[:2]]
    value = json.loads((folders[0] / "config.json").read_text())
    write_json(folders[0] / "config.json", value | {"scale": 99.0})
    with pytest.raises(UserError, match=r"config\.json: .*\(it was edited, or belongs to another"):
        run_list.show(here[0])
    write_json(folders[0] / "config.json", value)
    write_json(folders[0] / "metrics.json", metrics(here[0], 99.0))
    fix = "Fix: delete it and run `snakemake"
    with pytest.raises(UserError, match=rf"metrics\.json: its sha256 differs .*{fix}"):
        run_list.show(here[0])
    (folders[0] / "metrics.json").write_bytes((folders[1] / "metrics.json").read_bytes())
    with pytest.raises(UserError, match=rf"is of run {here[1]}, not of {here[0]}\. {fix}"):
        run_list.show(here[0])
    (folders[0] / "record.json").write_bytes((folders[1] / "record.json").read_bytes())
    write_json(folders[0] / "metrics.json", metrics(here[0], 10.0))
    with pytest.raises(UserError, match=rf"record\.json: is of .*, not of {here[0]}\. {fix}"):
        run_list.show(here[0])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metrics.json", '{"gall', "not JSON"),
        ("metrics.json", "{}", "run_key: Field required"),
        ("config.json", '{"stage": "eva', "not the config of a run"),
        ("config.json", '{"stage": "evaluate"}', "Field required"),
        ("config.json", "[]", "not the config of a run"),
        ("train.json", "{", "not the summary of a run"),
        ("train.json", "3", "not the summary of a run"),
    ],
)
def test_a_damaged_file_is_reported_in_one_line(plan, here, name, text, words):
    path = Path("results/runs", here[0], name)
    path.write_text(text)
    for give in (lambda: run_list.show(here[0]), lambda: run_list.differences(*here[:2])):
        with pytest.raises(UserError) as caught:
            give()
        line = str(caught.value)
        assert line.startswith(f"{path}: ") and words in line and "Fix: " in line
        assert "\n" not in line
    listed = {run.key: run for run in run_list.list_runs(plan)}
    assert listed[here[1]].number == "t2v_R1 11.0 (N 30)"
    assert (listed[here[0]].number == "metrics.json is damaged") == (name == "metrics.json")


def test_differences_list_settings_and_numbers(here):
    settings, found = run_list.differences(here[0], here[1])
    assert "modalities" in settings and "stage" not in settings
    assert found["galleries/all/metrics/t2v_R1"] == (10.0, 11.0)


def test_differences_of_folders_wherever_they_are(plan, here, tmp_path):
    """Such as a copy from another machine, under any name."""
    copied = tmp_path / "theirs"
    shutil.copytree(Path("results/runs", here[1]), copied)
    for one, two in ((here[0], "theirs"), (f"results/runs/{here[0]}", str(copied))):
        done = CliRunner().invoke(app, ["runs", "diff", one, two, "--json", *OPTIONS])
        assert done.exit_code == 0, done.exception
        told = json.loads(done.output)
        assert told["numbers"]["galleries/all/metrics/t2v_R1"] == [10.0, 11.0]
        assert "modalities" in told["settings"]


def test_unused_runs_are_listed_and_removed_only_on_request(plan, here):
    done = CliRunner().invoke(app, ["runs", "gc", *OPTIONS])
    assert done.exit_code == 0 and STRAY in done.output
    assert Path("results/runs", STRAY).is_dir()
    done = CliRunner().invoke(app, ["runs", "gc", "--delete", *OPTIONS])
    assert (
        "not a terminal. Fix: pass --yes" in str(done.exception)
        and Path("results/runs", STRAY).is_dir()
    )
    done = CliRunner().invoke(app, ["runs", "gc", "--delete", "--yes", *OPTIONS])
    assert done.exit_code == 0 and "removed" in done.output
    assert not Path("results/runs", STRAY).exists() and not Path("runs", STRAY).exists()
    assert Path("results/runs", here[0], "metrics.json").is_file()


def test_rows_of_all_tables_count_as_users(plan, here):
    values = {"targets": ["demo_classification"], "datasets": {"demo": {"enabled": False}}}
    assert not make_plan(CONFIG, values).runs
    assert plan.runs.keys() <= used_keys(CONFIG, values)
    given = ["runs", "gc", "--delete", "--yes", *OPTIONS, "--set", json.dumps(values)]
    done = CliRunner().invoke(app, given)
    assert f"{STRAY} removed" in done.output and done.output.count("removed") == 1
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0 and done.output == "every run here is used by a row\n"


def test_targets_that_are_not_there_are_refused_before_anything_counts_as_unused(here, tmp_path):
    for values in ({"experiments": str(tmp_path)}, {"targets": ["nope"]}):
        with pytest.raises(UserError, match="no table"):
            used_keys(CONFIG, values)


def test_keys_that_depend_on_disabled_data_are_used_both_ways():
    """`howto100m`: pre-training leaves out the test clips of the enabled datasets alone."""
    vatex = {"datasets": {"vatex": {"enabled": False}}}
    found = used_keys(CONFIG[:1], vatex)
    for values in ({}, vatex):
        assert make_plan(CONFIG[:1], values).runs.keys() <= found


def test_an_unused_run_is_described_before_it_is_removed(here):
    found = {run.key: run for run in unused(())}
    assert found.keys() == {*here, STRAY}
    evaluation, training, stray = found[here[0]], found[here[2]], found[STRAY]
    assert (evaluation.stage, evaluation.state) == ("evaluate", "done")
    assert evaluation.about.startswith("demo-v1-")
    assert (training.state, stray.state, stray.stage) == ("saved at step 12", "begun", "?")
    assert stray.size == 1000 and stray.changed > 0
    row = {"started_ms": 1, "seconds": 5400, "end": "killed"}
    Path("runs", here[2], "attempts.jsonl").write_text(2 * (json.dumps(row) + "\n"))
    assert [run.hours for run in unused(()) if run.key == here[2]] == [3.0]
    Path("results/runs", here[1], "config.json").write_text("{")
    (damaged,) = [run for run in unused(()) if run.key == here[1]]
    assert damaged.state == "done" and "damaged" in damaged.about


@pytest.mark.parametrize(
    ("options", "answer", "kept"), [([], "n\n", True), ([], "y\n", False), (["--yes"], "", False)]
)
def test_removal_asks_for_confirmation(here, monkeypatch, options, answer, kept):
    monkeypatch.setattr("clip4vla.cli.runs._at_a_terminal", lambda: True)
    given = ["runs", "gc", "--delete", *OPTIONS, *options]
    done = CliRunner().invoke(app, given, input=answer)
    assert ("for good?" in done.output) == bool(answer)
    assert Path("results/runs", STRAY).exists() == kept and (done.exit_code == 0) != kept


def test_a_run_that_is_trained_is_not_removed(here):
    with sole_owner(Path("runs", STRAY)), pytest.raises(UserError, match="Fix: stop it first"):
        remove(STRAY)
    assert Path("results/runs", STRAY).is_dir()


@pytest.mark.parametrize("command", [["ls", "demo_audio"], ["show"], ["diff"]])
def test_the_commands_print(here, command):
    given = {"show": [here[0]], "diff": here[:2]}.get(command[0], [])
    options = OPTIONS if command[0] == "ls" else []
    done = CliRunner().invoke(app, ["runs", *command, *given, *options])
    assert done.exit_code == 0, done.output
    if command[0] == "show":
        assert json.loads(done.output)["numbers"]


def test_runs_are_named_by_their_rows_and_printed_as_json(plan, here):
    def told(*arguments):
        done = CliRunner().invoke(app, ["runs", *arguments, *OPTIONS])
        assert done.exit_code == 0, done.output + repr(done.exception)
        return json.loads(done.output)

    name = plan.names()[here[0]]
    assert told("show", name)["numbers"]["galleries/all/metrics/t2v_R1"] == 10.0
    assert told("show", f"finetune:{plan.names()[here[2]]}")["state"] == "saved at step 12"
    assert told("diff", name, here[1], "--json")["runs"] == here[:2]
    listed = {run["key"]: run["name"] for run in told("ls", "demo_retrieval", "--json")}
    assert listed[here[0]] == name
    assert STRAY in {run["key"] for run in told("gc", "--json")}

"""Names, tags and target of a plan's runs in MLflow."""

from pathlib import Path

import pytest

from clip4vla.common.errors import UserError
from clip4vla.config import layout
from clip4vla.config.planner import make_plan
from clip4vla.stages import tracking
from clip4vla.tracking.params import MAX_PARAMS, allowed
from clip4vla.tracking.record import flat

REPO = Path(__file__).parents[2]
FILES = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]


@pytest.fixture(scope="module")
def plan():
    return make_plan(FILES)


def of_config(**values):
    return make_plan(FILES, {"tracking": values})


def test_rows_and_seeds(plan):
    contexts = tracking.contexts_of(plan)
    caches = {f"{version}/{cache_id}" for version, cache_id in plan.caches}
    assert contexts.keys() == plan.runs.keys() | caches | {"tables"}
    for key, run in plan.runs.items():
        context, tags = contexts[key], contexts[key].tags
        assert context.name.startswith(f"{tags['table']}/{tags['row']}/{tags['dataset']}")
        assert f"{tags['table']}/{tags['row']}" in tags["rows"].split(", ")
        if run.stage != "evaluate":
            assert ("seed" in tags) == (run.stage != "substitute")
        assert (context.row is not None) == (run.stage in ("finetune", "evaluate"))
        assert context.state == Path(layout.state_dir(key))
    for cell in plan.cells:
        context = contexts[cell.run_key]
        assert f"{cell.table}/{cell.row}/{cell.dataset}" in context.rows
        assert f"{cell.table}/{cell.row}" in context.tags["rows"]
        assert context.tags.get("seed", "None") == str(cell.seed)  # none where nothing is trained


def test_every_run_names_the_command_that_makes_it_again(plan):
    from typer.testing import CliRunner

    from clip4vla.cli.main import app

    commands = {
        context.tags["mlflow.source.name"] for context in tracking.contexts_of(plan).values()
    }
    for verbs in {tuple(command.split()[1:-2] or command.split()[1:2]) for command in commands}:
        assert CliRunner().invoke(app, [*verbs, "--help"]).exit_code == 0, verbs


def test_a_run_of_two_rows_names_both(plan):
    shared = [key for key, cells in plan.rows().items() if len({c.row for c in cells}) > 1]
    assert shared
    for key in shared:
        assert len(tracking.contexts_of(plan)[key].tags["rows"].split(", ")) > 1


def test_the_split_that_selects_an_epoch_is_validation(plan):
    tuned = next(run for run in plan.runs.values() if run.stage == "finetune" and run.val)
    assert tracking._context(tuned, tuned.train) == "train"
    assert tracking._context(tuned, tuned.val) == "validation"
    source = tuned.val.model_copy(update={"split": "test"})
    on_test = tuned.model_copy(update={"val": None, "test": source})
    assert tracking._context(on_test, source) == "validation"


def test_params_are_the_settings_that_differ_between_rows(plan):
    for run in plan.runs.values():
        params = allowed(flat(run.scientific()))
        assert 0 < len(params) <= MAX_PARAMS
        assert not any("cache_id" in name for name in params)
    varying = {"model.type_token", "modalities", "seed", "optimiser.lr", "missing_audio"}
    seen = {name for run in plan.runs.values() for name in allowed(flat(run.scientific()))}
    assert varying <= seen


def test_where_runs_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = tracking.target_of(of_config())
    assert plain.uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert (plain.artifacts, plain.owner) == (tmp_path / "mlflow" / "artifacts", None)
    one, two = (tracking.target_of(of_config(uri="http://h:1", sink="live")) for _ in range(2))
    assert (one.uri, one.artifacts) == ("http://h:1", None)
    assert one.owner == two.owner == (tmp_path / "runs" / "workspace").read_text().strip()
    assert tracking.target_of(of_config(), "http://other:2").uri == "http://other:2"
    with pytest.raises(
        UserError, match="^--uri: 'nowhere': invalid uri. Fix: write http://HOST:PORT"
    ):
        tracking.target_of(of_config(), "nowhere")
    for uri in ("http://me:secret@h:1", "http://me:se/secret@h:1", "http://h/?token=secret"):
        with pytest.raises(UserError) as caught:
            tracking.target_of(of_config(), uri)
        assert "secret" not in str(caught.value)


def test_off_is_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = of_config(sink="off")
    assert "mlflow/synced.json" not in layout.all_outputs(plan)
    assert "mlflow/synced.json" in layout.all_outputs(of_config())
    with pytest.raises(UserError, match="sink is off"):
        tracking.sync(plan)
    with tracking.tracked(plan, plan.stage("finetune")[0]) as sink:
        sink.saved(1)
    assert list(tmp_path.iterdir()) == []


def test_tracking_changes_no_run_key(plan):
    assert (
        of_config(sink="live", uri="http://h:1", experiment="mine").runs.keys() == plan.runs.keys()
    )

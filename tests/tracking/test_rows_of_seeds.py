"""A row of seeds in MLflow: times, means, models, and runs that an edit replaced."""

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from threading import Barrier, BrokenBarrierError

import pytest

from clip4vla.tracking import Context, Target, sync, write_record
from clip4vla.tracking.attempts import append_attempt
from clip4vla.tracking.context import ROW
from clip4vla.tracking.server import quiet_mlflow
from clip4vla.tracking.shown import is_score, shown
from clip4vla.tracking.store import PARENT, SQLITE, SUPERSEDED, Store
from clip4vla.tracking.sync import CONTENT

BEGAN = 1_700_000_000_000
ROW_OF = "table5/inter/msrvtt"
R1 = {"0": 40.0, "1": 44.0, "2": 45.0}
NUMBERS = {"variants/audio:silent/galleries/all/t2v_R1": 9.0, "all/ties/t2v": 0.0}
DATASET = {"name": "msrvtt-v1-0a/test", "digest": "0" * 32, "context": "test", "source": "m.json"}


class Seeds:
    """Fine-tunings and evaluations of one row, in experiments of their own."""

    def __init__(self, folder: Path, uri: str):
        self.folder, self.name = folder, folder.name
        self.client = quiet_mlflow().MlflowClient(tracking_uri=uri)
        artifacts = folder / "artifacts" if uri.startswith(SQLITE) else None
        self.target = Target(uri, self.name, folder / "locks", artifacts)
        self.contexts: dict[str, Context] = {}
        self.records: list[Path] = []

    def add(self, seed: str, name: str = "", rows: tuple[str, ...] = (ROW_OF,), at: int = 0):
        """Finish both stages of a seed: the training took 60 s, and the evaluation 5 s."""
        tuned, scored = f"tuned{seed}{name}", f"scored{seed}{name}"
        out = self.folder / "results" / tuned
        out.mkdir(parents=True)
        (out / "model.safetensors").write_bytes(b"weights")
        tags = dict(zip(("table", "row", "dataset"), rows[0].split("/"), strict=True))
        for key, seconds in ((tuned, 60.0), (scored, 5.0)):
            state = self.folder / "runs" / key
            for start, end in ((0, "stopped"), (10_000, "finished")):
                times = {"started_ms": BEGAN + 1000 * at + start, "seconds": seconds - start / 1000}
                append_attempt(state, {**times, "end": end})
            self.contexts[key] = Context(f"{rows[0]}/s{seed}", {**tags, "seed": seed}, rows, state)
        write_record(
            out / "record.json",
            kind="finetune",
            key=tuned,
            name=tuned,
            metrics={"val_value": R1[seed] - 1, "steps": 30.0},
            model=out / "model.safetensors",
        )
        write_record(
            out / "scored.json",
            kind="evaluate",
            key=scored,
            name=scored,
            tags={"data_version": "msrvtt-v1-0a"},
            metrics={"all/t2v_R1": R1[seed], "coverage/scored": 9.0, **NUMBERS},
            inputs=[tuned],
            datasets=[DATASET],
        )
        self.records += [out / "record.json", out / "scored.json"]

    def sync(self, *without: str):
        """Sync all records but those of keys that the config no longer has."""
        contexts = {key: one for key, one in self.contexts.items() if key not in without}
        records = [p for p in self.records if json.loads(p.read_text())["key"] in contexts]
        return sync(records, self.target, contexts, whole=True)

    def runs(self, kind="evaluate", text="", deleted=False):
        view = quiet_mlflow().entities.ViewType
        found = self.client.get_experiment_by_name(f"{self.name}/{kind}")
        wanted = view.DELETED_ONLY if deleted else view.ACTIVE_ONLY
        return self.client.search_runs([found.experiment_id], text, wanted)

    def parent(self, kind="evaluate", row=ROW_OF):
        (parent,) = self.runs(kind, f"tags.{ROW} = '{row}'")
        return parent


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def own(tmp_path, store):
    """One seed, not synced yet."""
    world = Seeds(tmp_path, store)
    world.add("0")
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory, store):
    """Two seeds, of which another row needs one, too; a second sync changes nothing."""
    world = Seeds(tmp_path_factory.mktemp("rows"), store)
    world.add("0", rows=(ROW_OF, "table9/other/msrvtt"))
    world.add("1", at=100)
    assert world.sync().added == 4
    before = [run.info.run_id for run in world.runs()]
    assert world.sync().skipped == 4
    assert [run.info.run_id for run in world.runs()] == before
    return world


def test_a_run_has_the_times_of_its_attempts(world):
    (run,) = world.runs("finetune", "tags.run_key = 'tuned1'")
    assert run.info.start_time == BEGAN + 100_000
    assert run.info.end_time - run.info.start_time == 60_000
    parent = world.parent("finetune").info
    assert (parent.start_time, parent.end_time) == (BEGAN, BEGAN + 160_000)


def test_a_parent_has_mean_and_spread_over_seeds(world):
    parent, values = world.parent(), [R1["0"], R1["1"]]
    assert parent.data.metrics == {
        "all/t2v_R1": mean(values),
        "all/t2v_R1_sd": stdev(values),
        "seeds": 2.0,
    }
    tags = parent.data.tags
    assert (tags["data_version"], tags["seed"], tags["row"]) == ("msrvtt-v1-0a", "0 1", "inter")
    (dataset,) = parent.inputs.dataset_inputs
    assert dataset.dataset.name == DATASET["name"]
    assert {"val_value", "val_value_sd", "seeds"} == world.parent("finetune").data.metrics.keys()
    children = world.runs("evaluate", f"tags.`{PARENT}` = '{parent.info.run_id}'")
    assert {run.data.tags["run_key"] for run in children} == {"scored0", "scored1"}


def test_an_evaluation_shows_few_numbers_and_has_all(world):
    (run,) = world.runs(text="tags.run_key = 'scored0'")
    ours = {name for name in run.data.metrics if not name.startswith("system/")}
    assert ours == {"all/t2v_R1", "coverage/scored"}
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert json.loads((folder / "numbers.json").read_text()).items() >= NUMBERS.items()


def test_an_evaluation_reads_the_model_that_the_training_made(world):
    (tuned,) = world.runs("finetune", "tags.run_key = 'tuned0'")
    (scored,) = world.runs(text="tags.run_key = 'scored0'")
    (made,) = [model.model_id for model in tuned.outputs.model_outputs]
    whole = world.client.get_run(scored.info.run_id)
    assert [model.model_id for model in whole.inputs.model_inputs] == [made]
    assert [model.model_id for model in scored.outputs.model_outputs] == [made]  # for a search
    for kind in ("finetune", "evaluate"):
        assert made in [model.model_id for model in world.parent(kind).outputs.model_outputs]


def test_what_comes_later_reads_the_models_that_were_made_not_those_that_were_read(own):
    """Tables read evaluations, of which several read one model; the demo with one more row."""
    world = own
    world.sync()
    (tuned,) = world.runs("finetune", "tags.run_key = 'tuned0'")
    out = world.folder / "results"
    for key, kind, inputs in (
        ("again0", "evaluate", ["tuned0"]),
        ("tables", "tables", ["scored0", "again0"]),
        ("more", "tables", ["tuned0", "tuned0", "again0"]),
    ):
        world.contexts[key] = Context(key, {})
        world.records.append(out / f"{key}.json")
        write_record(world.records[-1], kind=kind, key=key, name=key, metrics={}, inputs=inputs)
        assert world.sync().added == 1
    read = {
        run.data.tags["run_key"]: [
            one.model_id for one in world.client.get_run(run.info.run_id).inputs.model_inputs
        ]
        for run in world.runs("tables")
    }
    (made,) = [model.model_id for model in tuned.outputs.model_outputs]
    assert read == {"tables": [], "more": [made]}


def test_two_syncs_of_a_server_at_once_make_one_parent(server, tmp_path, monkeypatch):
    """They would meet where both have read the runs, and neither has made a parent."""
    world, meeting, real = Seeds(tmp_path, server.uri), Barrier(2), Store.runs
    world.add("0")

    def runs_of_both(self, *arguments, **named):
        found = real(self, *arguments, **named)
        with contextlib.suppress(BrokenBarrierError):
            meeting.wait(1)
        return found

    monkeypatch.setattr(Store, "runs", runs_of_both)
    with ThreadPoolExecutor(2) as pool:
        reports = [one.result() for one in [pool.submit(world.sync) for _ in range(2)]]
    assert sorted((one.added, one.skipped) for one in reports) == [(0, 2), (2, 0)]
    assert [len(world.runs(kind)) for kind in ("finetune", "evaluate")] == [2, 2]
    assert world.parent("finetune").outputs.model_outputs


def test_the_description_links_to_the_best_rows(world):
    experiment = world.client.get_experiment_by_name(f"{world.name}/evaluate")
    page = f"#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    note = experiment.tags["mlflow.note.content"]
    for gallery, key in (("all", "t2v_R1"), ("with_sound", "with_sound_t2v_R1")):
        assert f"[R@1]({page}&viewStateShareKey={key})" in note
        view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
        assert (view["orderByKey"], view["orderByAsc"]) == (f"metrics.`{gallery}/t2v_R1`", False)
        assert f"metrics.`{gallery}/t2v_R1_sd`" in view["selectedColumns"]
    assert "tags.`data_version`" in view["selectedColumns"] == view["columnOrder"]
    assert view["columnWidths"]["tags.`data_version`"] > 100  # of which MLflow cuts it


def test_a_run_that_an_edit_replaced_is_superseded_until_the_edit_is_undone(own):
    world = own
    world.add("1")
    world.sync()
    before = {run.data.tags.get("run_key"): run.info.run_id for run in world.runs()}
    world.add("2", name="edited")
    world.contexts["other"] = Context("table6/a/b", {"table": "table6", "row": "a", "dataset": "b"})
    report = world.sync("scored1", "tuned1")
    assert (report.added, report.superseded) == (2, 2)
    assert world.parent().data.metrics["all/t2v_R1"] == mean([R1["0"], R1["2"]])
    (old,) = world.runs(text=f"tags.{SUPERSEDED} = 'true'", deleted=True)
    assert old.info.run_id == before["scored1"]
    assert old.data.metrics["all/t2v_R1"] == R1["1"]  # as before
    report = world.sync("scored2edited", "tuned2edited")
    assert (report.added, report.skipped, report.superseded) == (0, 4, 2)
    back = {run.data.tags.get("run_key"): run.info.run_id for run in world.runs()}
    assert back.keys() == before.keys() and back["scored1"] == before["scored1"]
    assert all(SUPERSEDED not in run.data.tags for run in world.runs("finetune"))
    (tuned,) = world.runs("finetune", "tags.run_key = 'tuned1'")
    (made,) = tuned.outputs.model_outputs
    assert world.client.get_logged_model(made.model_id).source_run_id == tuned.info.run_id


def test_runs_of_rows_that_the_config_does_not_have_stay(own):
    world = own
    world.sync()
    world.add("1", rows=("table8/there/msrvtt",))
    assert world.sync("scored0", "tuned0").superseded == 0
    assert len(world.runs()) == 4


def test_runs_of_an_older_version_are_filled_anew(own):
    world = own
    world.sync()
    (before,) = world.runs(text="tags.run_key = 'scored0'")
    world.client.log_metric(before.info.run_id, "variants/audio:silent/galleries/all/t2v_R1", 9.0)
    world.client.delete_tag(before.info.run_id, CONTENT[0])
    report = world.sync()
    assert (report.replaced, report.skipped) == (1, 1)
    (after,) = world.runs(text="tags.run_key = 'scored0'")
    assert "variants/audio:silent/galleries/all/t2v_R1" not in after.data.metrics
    assert after.data.tags[PARENT] == world.parent().info.run_id


def test_a_stage_without_attempts_has_the_times_of_its_files(own, tmp_path):
    world = own
    began = tmp_path / "plan.parquet"
    began.write_text("")
    context = replace(world.contexts["scored0"], state=None, began=began)
    world.contexts["scored0"] = context
    os.utime(began, (BEGAN / 1000, BEGAN / 1000))
    record = world.records[1]
    os.utime(record, (BEGAN / 1000 + 90, BEGAN / 1000 + 90))
    world.sync()
    (run,) = world.runs(text="tags.run_key = 'scored0'")
    assert (run.info.start_time, run.info.end_time) == (BEGAN, BEGAN + 90_000)


@pytest.mark.parametrize(
    ("name", "is_shown", "scores"),
    [
        ("all/t2v_R1", True, True),
        ("with_sound/a2t_MedR", True, True),
        ("all/accuracy", True, True),
        ("all/CIDEr_whitespace", False, True),
        ("all/t2v_R50", False, True),
        ("all/extras/dual_softmax/t2v_R1", False, True),
        ("steps", True, False),
        ("batch_size", True, False),
        ("test/usable", True, False),
        ("val_value", True, True),
        ("data/val/clips", False, False),
    ],
)
def test_which_numbers_are_shown(name, is_shown, scores):
    assert (name in shown({name: 1.0}), is_score(name)) == (is_shown, scores)

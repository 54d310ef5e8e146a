"""Description of the scored model in metrics.json."""

from pathlib import Path

import pandas as pd
import pytest

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_json, write_parquet
from clip4vla.config import layout
from clip4vla.config.planner import make_plan
from clip4vla.results.metrics_file import MadeWith
from clip4vla.stages.lineage import made_with, seen_in_pretraining
from clip4vla.tracking import write_record

REPO = Path(__file__).parents[2]
OPENAI = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def plan_of(**values):
    return make_plan([REPO / "config.yaml"], {"targets": ["table1"], **values})


def evaluation(plan, row, dataset):
    return next(
        plan.runs[cell.run_key] for cell in plan.cells if (cell.row, cell.dataset) == (row, dataset)
    )


def trained(plan, first_weights):
    """Write the train.json of every training of a plan, as the runs do."""
    for key, run in plan.runs.items():
        if run.stage in ("pretrain", "finetune"):
            sources = run.sources if run.stage == "pretrain" else [run.train]
            facts = [
                {"dataset": s.dataset, "split": s.split, "usable": 9, "clips": 8} for s in sources
            ]
            sha256 = "0" * 64 if run.start in plan.runs else first_weights
            parent = {"run_key": run.start, "sha256": sha256}
            summary = {"parent": parent, "data": {"train": facts}}
            write_json(Path(layout.result_dir(key), "train.json"), summary)


def test_the_chain_of_trainings_is_followed_to_the_first_weights(here):
    plan = plan_of()
    trained(plan, OPENAI)
    run = evaluation(plan, "clip4vla", "vatex")
    made = MadeWith.model_validate(made_with(plan, run, None))
    assert (made.reader, made.architecture, made.weights) == ("vatex", "ViT-B-32", "openai")
    assert (made.weights_sha256, made.published) == (OPENAI, "OpenAI's ViT-B-32.pt")
    assert [training.stage for training in made.trainings] == ["pretrain", "pretrain", "finetune"]
    assert made.trainings[-1].run_key == run.start and not made.imported
    first, second = (training.clips for training in made.trainings[:2])
    assert [item.reader for item in first] == ["howto100m", "audioset"] and first == second
    (tuned,) = made.trainings[-1].clips
    assert (tuned.split, tuned.usable, tuned.clips) == ("train", 9, 8)
    assert (tuned.expected, tuned.tolerance) == (25991, 0.02)


def test_clip_itself_is_known_by_the_file_that_the_evaluation_read(here):
    plan = plan_of()
    run = evaluation(plan, "clip", "msrvtt")
    made = MadeWith.model_validate(made_with(plan, run, OPENAI))
    assert (made.published, made.trainings) == ("OpenAI's ViT-B-32.pt", [])
    made = MadeWith.model_validate(made_with(plan, run, "e" * 64))
    assert (made.weights, made.weights_sha256, made.published) == ("openai", "e" * 64, None)


def test_random_towers_have_no_weights(here):
    plan = plan_of(recipe={"model": {"architecture": "tiny", "weights": None}})
    trained(plan, None)
    for row in ("clip", "clip4vla"):
        made = made_with(plan, evaluation(plan, row, "msrvtt"), None)
        assert (made["architecture"], made["weights"], made["published"]) == ("tiny", None, None)
        assert made["weights_sha256"] is None and not made["imported"]


def planned(version, sources):
    """Write the lists of a dataset version: clip -> its video, all in every split."""
    folder = Path(layout.data_dir(version))
    clips = [f"{version}_{source}" for source in sources]
    write_parquet(folder / "plan.parquet", pd.DataFrame({"clip_id": clips, "source_id": sources}))
    splits = ("train", "train_9k", "train_ours", "val", "val_ours", "test", "test_1k")
    splits += ("caption_val", "caption_test")
    rows = [{"split": split, "clip_id": clip} for split in splits for clip in clips]
    write_parquet(folder / "splits.parquet", pd.DataFrame(rows))


def test_scored_clips_that_pretraining_has_seen_are_known_from_the_lists(here, caplog):
    kept = plan_of(recipe={"pretrain.leaks": "keep"})
    run = evaluation(kept, "clip4vla", "msrvtt")
    assert seen_in_pretraining(kept, run) is None and "it is unknown" in caplog.text
    for version, name in {**kept.versions, **plan_of().listed}.items():
        films = {"howto100m": ["a", "b"], "audioset": ["b", "c"], "msrvtt": ["c", "d", "a"]}
        planned(version, films.get(name, ["e"]))
    version = run.test.dataset
    assert seen_in_pretraining(kept, run) == {f"{version}_a", f"{version}_c"}
    dropped = plan_of()  # ours leaves them out: test_1k is held out
    assert seen_in_pretraining(dropped, evaluation(dropped, "clip4vla", "msrvtt")) == frozenset()
    assert seen_in_pretraining(kept, evaluation(kept, "clip", "msrvtt")) is None


def test_an_imported_model_is_not_taken_for_clip(here):
    weights = {"mine": {"path": "mine.safetensors"}}
    plan = plan_of(weights=weights, recipe={"pretrain": {"from": "mine"}})
    trained(plan, "a" * 64)
    made = made_with(plan, evaluation(plan, "clip4vla", "msrvtt"), None)
    assert (made["weights"], made["weights_sha256"]) == ("mine", "a" * 64)
    assert made["imported"] and made["published"] is None


def test_a_training_without_its_summary_is_reported(here):
    plan = plan_of()
    run = evaluation(plan, "vision_only", "msrvtt")
    with pytest.raises(
        UserError, match=rf"{run.start}/train\.json: missing\. Fix: run `snakemake \.\.\. "
    ):
        made_with(plan, run, None)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"parent": {"sha256": null}, "data": 3}'])
def test_a_damaged_summary_of_a_training_is_reported(here, text):
    plan = plan_of()
    run = evaluation(plan, "vision_only", "msrvtt")
    path = Path(layout.result_dir(run.start), "train.json")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{path}: damaged.*Fix: delete it and run `.* {path}`"):
        made_with(plan, run, None)


def test_an_edited_summary_of_a_training_is_refused(here):
    """Its clips and initial weights decide whether a number is compared with the paper."""
    plan = plan_of()
    trained(plan, "a" * 64)
    run = evaluation(plan, "vision_only", "msrvtt")
    path = Path(layout.result_dir(run.start), "train.json")
    record = path.with_name("record.json")
    write_record(record, kind="finetune", key=run.start, name="n", artifacts=[path])
    made_with(plan, run, None)
    path.write_text(path.read_text().replace("a" * 64, OPENAI))
    with pytest.raises(UserError, match=r"train\.json: its sha256 differs from the one in record"):
        made_with(plan, run, None)

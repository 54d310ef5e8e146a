"""Which epoch is kept: on validation, or on the test split as the authors did, labelled."""

import json

import pytest
import torch
from tiny_world import SILENT, build_world, finetune, optimiser, source

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.config.run import Evaluate
from clip4vla.config.sections import Decoding
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.loading.loader import Caches
from clip4vla.models.common.tensor_files import read_metadata
from clip4vla.training.job import External
from clip4vla.training.selection import SelectionRule, selection_rule
from clip4vla.training.setup import set_up
from clip4vla.training.train import train


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world") / "world")


def as_paper(task="retrieval", **given):
    values = {"val": None, "test": source("test"), "selection": "best_test_as_paper"}
    return finetune(task, **(values | {"test_missing_audio": "none"} | given))


def go(run, manifests, folder, substitution=None):
    train(run, manifests, None, {}, substitution, folder / "state", folder / "out")
    rows = [
        json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()
    ]
    return read_json(folder / "out" / "train.json"), rows


def test_the_rule_of_each_selection():
    assert selection_rule(finetune(val=None, selection="last")) == SelectionRule()
    assert selection_rule(finetune()) == SelectionRule(
        selects=True, split="val", first=1, latest=False
    )
    assert selection_rule(as_paper()) == SelectionRule(
        selects=True, split="test", first=1, latest=True
    )
    captions = as_paper("captioning", optimiser=optimiser(epochs=3))
    assert selection_rule(captions).first == 3  # facts 8.2: epoch > 1, counted from 0
    assert SelectionRule().prefers("CIDEr", 1.0, None) and not SelectionRule().prefers(
        "CIDEr", 1.0, 1.0
    )
    latest = SelectionRule(latest=True)
    assert latest.prefers("t2v_R1", 1.0, 1.0) and not latest.prefers("t2v_R1", 0.9, 1.0)
    assert latest.prefers("t2v_MedR", 0.9, 1.0) and not latest.prefers("t2v_MedR", 1.1, 1.0)


def test_a_run_selects_on_one_split_alone():
    with pytest.raises(ValueError, match="best_test_as_paper needs `test`, not `val`"):
        as_paper(val=source("val"))
    with pytest.raises(ValueError, match="others need `val`"):
        finetune(test=source("test"))


def test_retrieval_is_selected_by_the_best_of_three_on_test(manifests, tmp_path):
    run = as_paper(missing_audio="none", optimiser=optimiser(epochs=3, batch_size=9))
    summary, rows = go(run, manifests, tmp_path)
    assert not any(name.startswith("val/") for row in rows for name in row)
    scored = [row for row in rows if "test/t2v_R1" in row]
    assert len(scored) == 3
    assert all(row["test/best_of_three_R1"] >= row["test/t2v_R1"] for row in scored)
    values = [row["test/best_of_three_R1"] for row in scored]
    assert summary["selected_epoch"] == 1 + max(i for i, v in enumerate(values) if v == max(values))
    assert (summary["val_metric"], summary["val_value"]) == ("best_of_three_R1", max(values))
    assert summary["selection"] == "best_test_as_paper"
    assert summary["selected_on"] == "test, the split that is also reported"
    assert (summary["val_clips"], summary["data"]["val"]) == (0, None)
    assert summary["data"]["test"]["clips"] == 5

    start = tmp_path / "out" / "model.safetensors"
    assert read_metadata(start)["selected_on"] == summary["selected_on"]
    given = {"task": "retrieval", "test": run.test, "missing_audio": run.test_missing_audio}
    scoring = Evaluate(start="a" * 12, model=run.model, inputs=run.inputs, **given)
    evaluate(scoring, manifests, start, {}, None, tmp_path, "b" * 12)
    found = read_json(tmp_path / "metrics.json")
    assert found["selection"] == "best_test_as_paper"
    kept = scored[summary["selected_epoch"] - 1]
    assert found["galleries"]["all"]["metrics"]["t2v_R1"] == kept["test/t2v_R1"]


def test_silent_test_clips_follow_their_own_policy(manifests, tmp_path):
    table = tmp_path / "substitution.tsv"
    lines = [f"{clip}\tt0\t0.5\tt1" for clip in sorted(SILENT)]
    table.write_text("\n".join(["clip_id\tdonor\tcosine\trandom_donor", *lines]) + "\n")
    counts = {}
    for policy in ("filter", "substitute", "none"):
        given = Caches(manifests), None, {}, table, torch.device("cpu"), 1
        facts = set_up(as_paper(test_missing_audio=policy), External(*given)).facts
        assert facts["train"][0]["missing_audio"] == "filter"
        counts[policy] = [
            facts["test"][key] for key in ("clips", "silent_with_donor", "missing_audio")
        ]
    assert counts["filter"] == [4, 0, "filter"]
    assert counts["substitute"] == [5, 1, "substitute"]
    assert counts["none"] == [5, 0, "none"]
    with pytest.raises(UserError, match="needs the substitution.tsv"):
        go(as_paper(test_missing_audio="random"), manifests, tmp_path / "random")


def test_captions_are_scored_late_and_as_they_will_be_written(manifests, tmp_path, monkeypatch):
    used = []

    def generate(model, samples, modalities, device, workers, decoding, part):
        used.append(decoding.method)
        return {clip_id: "a red thing" for clip_id, _, _ in samples.items}

    monkeypatch.setattr("clip4vla.training.validation.generate", generate)
    decoding = Decoding(method="beam", beams=2)
    given = {"missing_audio": "none", "optimiser": optimiser(epochs=4, batch_size=18)}
    summary, rows = go(as_paper("captioning", decoding=decoding, **given), manifests, tmp_path)
    assert [row["epoch"] for row in rows if "test/CIDEr" in row] == [3, 4]
    assert used == ["beam", "beam"]
    assert summary["selected_epoch"] == 4  # equal scores: the latest, as in the released code


def test_a_probe_is_selected_on_the_fold_that_is_scored(manifests, tmp_path):
    run = as_paper("classification", missing_audio="none", optimiser=optimiser(epochs=4))
    summary, rows = go(run, manifests, tmp_path)
    values = [row["test/accuracy"] for row in rows if "test/accuracy" in row]
    assert (len(values), summary["val_value"]) == (4, max(values))
    assert summary["data"]["test"]["split"] == "test"

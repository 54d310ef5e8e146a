"""Effects of presets on rows and on the splits of datasets."""

from pathlib import Path

import pytest
import yaml

from clip4vla.common.errors import UserError
from clip4vla.config.planner import make_plan
from clip4vla.models.clip4vla.settings import Model

REPO = Path(__file__).parents[2]
BASE = {
    "finetune": {},
    "missing_audio": "filter",
    "pretrain": {"sources": [{"dataset": "audioset", "split": "train", "nonverbal_share": 1}]},
}


def planned(tmp_path, preset, base=None, dataset="msrvtt", **table):
    """The plan of a table with one row on one dataset, by stage."""
    task = (base or {}).get("task")
    metrics = {"captioning": "CIDEr", "classification": "accuracy", "tagging": "mAP"}
    metric = metrics.get(task, "t2v_R1")
    content = {
        "table": "one",
        "title": "One row",
        "gallery": "with_sound",
        "columns": [{"dataset": dataset, "metric": metric, "label": "number"}],
        "base": BASE | (base or {}),
        "rows": [{"row": "row", "label": "row", "preset": preset}],
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(content | table))
    values = {"experiments": str(tmp_path), "targets": ["one"]}
    plan = make_plan([REPO / "config.yaml"], values)
    return {run.stage: run for run in plan.runs.values()}


TUNED = {
    "ours": ("train_ours", "val_ours", None, "best_val"),
    "paper": ("train_9k", None, None, "last"),
    "released": ("train_9k", None, "test_1k", "best_test_as_paper"),
    "released_half": ("train_9k", None, "test_1k", "best_test_as_paper"),
}


@pytest.fixture(scope="module", params=TUNED)
def table1(request):
    plan = make_plan([REPO / "config.yaml"], {"preset": request.param, "targets": ["table1"]})
    return request.param, plan


def test_msrvtt_has_the_splits_of_its_preset(table1):
    preset, plan = table1
    runs = [plan.runs[key] for key in plan.stage("finetune")]
    found = {
        (run.train.split, run.val and run.val.split, run.test and run.test.split, run.selection)
        for run in runs
        if run.train.dataset.startswith("msrvtt")
    }
    assert found == {TUNED[preset]}
    donors = {
        plan.runs[key].donors.split
        for key in plan.stage("substitute")
        if plan.runs[key].donors.dataset.startswith("msrvtt")
    }
    assert donors == {TUNED[preset][0]}


def test_selection_treats_silent_test_clips_like_the_evaluation(table1):
    preset, plan = table1
    for key in plan.stage("evaluate"):
        scored = plan.runs[key]
        run = plan.runs.get(scored.start)
        if run is not None and run.stage == "finetune" and run.selection == "best_test_as_paper":
            assert (run.test, run.test_missing_audio) == (scored.test, scored.missing_audio)
            assert run.substitution == scored.substitution
    tuned = [plan.runs[key] for key in plan.stage("finetune")]
    policies = {run.test_missing_audio for run in tuned}
    assert policies == ({"substitute", "none"} if preset.startswith("released") else {None})


def test_only_released_counts_padding_in_the_search_for_donors(table1):
    """facts 10.2: the plain mean; every substitution of a preset has the same."""
    preset, plan = table1
    means = {plan.run(key).mean for key in plan.stage("substitute")}
    assert means == {"plain" if preset.startswith("released") else "masked"}


def test_a_scope_of_only_test_still_has_donors_for_selection(tmp_path):
    base = {"missing_audio": "substitute", "substitute_scope": "test"}
    for preset, wanted in (("released", "substitute"), ("ours", None)):
        run = planned(tmp_path, preset, base, dataset="vatex", gallery="all")["finetune"]
        assert run.missing_audio == "filter"
        assert (run.test_missing_audio, run.substitution is not None) == (
            wanted,
            wanted is not None,
        )


@pytest.mark.parametrize(
    ("dataset", "base", "wanted"),
    [
        ("msrvtt", {}, (5, 128, 1e-7, 16, 0.5, "clip")),
        ("msrvtt", {"model": {"fusion": "global_to_local"}}, (10, 128, 1e-7, 16, 0.5, "bert")),
        ("vatex", {"model": {"fusion": "local_to_local"}}, (10, 32, 1e-7, 6, 0.5, "clip")),
        ("audiocaps", {}, (15, 128, 2e-7, 6, 1.0, "clip")),
        ("audiocaps", {"model": {"fusion": "tight"}}, (15, 64, 1e-7, 6, 1.0, "clip")),
        ("vatex", {"task": "captioning"}, (10, 64, 1e-7, 6, 0.5, "clip")),
        ("audiocaps", {"task": "captioning"}, (15, 64, 1e-7, 6, 1.0, "clip")),
    ],
)
def test_released_rows_have_the_values_of_the_scripts(tmp_path, dataset, base, wanted):
    """facts 7.4 and 8.2."""
    runs = planned(tmp_path, "released", base, dataset)
    run = runs["finetune"]
    optimiser = run.optimiser
    found = (optimiser.epochs, optimiser.batch_size, optimiser.lr, run.inputs.max_segments)
    assert (*found, run.train.nonverbal_share, run.model.joint) == wanted
    assert (optimiser.kind, optimiser.head_lr, optimiser.warmup) == ("bert_adam", 5e-4, 0.1)
    assert (optimiser.weight_decay, optimiser.beta2, optimiser.eps) == (0.2, 0.98, 1e-6)
    assert optimiser.precision == runs["pretrain"].optimiser.precision == "full"
    assert (runs["pretrain"].optimiser.epochs, runs["pretrain"].optimiser.batch_size) == (10, 256)
    assert run.decoding == runs["evaluate"].decoding


@pytest.mark.parametrize(
    ("preset", "dataset", "task", "steps"),
    [
        ("released", "msrvtt", "captioning", 32),
        ("released", "audiocaps", "captioning", 32),
        ("released", "vatex", "captioning", 48),
        ("released", "msrvtt", "retrieval", 31),
        ("ours", "msrvtt", "captioning", 31),
    ],
)
def test_released_captions_have_all_their_words(tmp_path, preset, dataset, task, steps):
    """facts 8.2: the start and 31 words are read, 31 words and the end are the 32 targets."""
    run = planned(tmp_path, preset, {"task": task}, dataset)["evaluate"]
    assert run.inputs.caption_steps == steps


def test_a_probe_on_esc50_is_trained_as_released(tmp_path):
    """facts 9.1: four folds, selected on the fifth, which is scored."""
    base = {
        "task": "classification",
        "modalities": ["audio"],
        "finetune": {"train": "train_1"},
        "test": "test_1",
    }
    columns = [{"dataset": "esc50", "metric": "accuracy", "label": "accuracy"}]
    run = planned(tmp_path, "released", base, "esc50", columns=columns)["finetune"]
    assert (run.optimiser.head_lr, run.optimiser.batch_size, run.optimiser.epochs) == (5e-3, 64, 10)
    assert (run.inputs.max_segments, run.train.nonverbal_share) == (3, 1.0)
    assert (run.test.split, run.test_missing_audio) == ("test_1", "filter")


def test_the_row_overrides_the_preset(tmp_path):
    base = {"finetune": {"optimiser.epochs": 7, "selection": "last"}, "nonverbal_share": 0.25}
    run = planned(tmp_path, "released", base, "audiocaps")["finetune"]
    assert (run.optimiser.epochs, run.selection, run.test) == (7, "last", None)
    assert run.train.nonverbal_share == 0.25


def test_the_second_stage_has_the_released_loss_if_clip_is_trained(tmp_path):
    pretrain = BASE["pretrain"] | {"trainable": "all"}
    for preset, wanted in (("released", "released"), ("ours", "repaired")):
        run = planned(tmp_path, preset, {"pretrain": pretrain})["pretrain"]
        assert run.objective.second_stage == wanted


def test_half_weights_are_a_preset_of_their_own(tmp_path):
    half, full = planned(tmp_path, "released_half"), planned(tmp_path, "released")
    for stage in ("pretrain", "finetune"):
        assert half[stage].optimiser.precision == "half_weights"
        same = half[stage].optimiser.model_copy(update={"precision": "full"})
        assert same == full[stage].optimiser


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"finetune": {"val": "val_ours"}}, "best_test_as_paper does not read val .'val_ours'.*"),
        (
            {"task": "captioning", "finetune": {"optimiser.epochs": 2}},
            "scores captions from epoch 3 on .* is 2",
        ),
        (
            {"finetune": {"optimiser.precision": "half_weights", "optimiser.kind": "adamw"}},
            "studies",
        ),
        ({"finetune": {"optimiser.ema": 1.5}}, "ema is 1.5: a decay lies between 0 and 1"),
        ({"finetune": {"optimiser.schedule": "step"}}, "schedule: step needs step_from"),
        ({"finetune": {"optimiser.step_from": 2}}, "only has an effect with schedule: step"),
        ({"finetune": {"optimiser.average_epochs": [3, 9]}}, "no range of epochs 1 to"),
        (
            {"finetune": {"optimiser": {"average_epochs": [1, 2], "ema": 0.9}}},
            "two averages of the weights",
        ),
        (
            {"finetune": {"optimiser.average_epochs": [1, 2]}},
            "average_epochs: selection: best_.* keeps one epoch",
        ),
        (
            {"finetune": {"trainable": "all"}},
            "finetune.trainable: task retrieval always trains the towers",
        ),
        ({"test_frames": 2}, "test_frames: only a classification or tagging"),
        (
            {"task": "tagging", "test_frames": 13, "finetune": {}},
            "test_frames: 13 frames of a clip are not read",
        ),
        (
            {"finetune": {"sampling": "balanced"}},
            "finetune.sampling: task retrieval has no classes",
        ),
        (
            {"finetune": {"augment.noise": True}},
            "finetune.augment: task retrieval has no classes",
        ),
        (
            {"task": "classification", "finetune": {"augment.noise": True}},
            "finetune.augment: the features of a probe are computed once",
        ),
        (
            {
                "task": "tagging",
                "modalities": ["vision"],
                "finetune": {"trainable": "all", "augment.roll": True},
            },
            "finetune.augment.roll changes sounds, and the row's modalities have no audio",
        ),
        (
            {"task": "tagging", "finetune": {"trainable": "all", "augment.mixup": 0.5}},
            "augment.mixup mixes waveforms.* set cache.waveform: true",
        ),
        (
            {"task": "tagging", "finetune": {"trainable": "all", "augment.time_mask": 1}},
            "time_mask: 1 masks less than one",
        ),
        (
            {"task": "classification", "finetune": {"freeze.layer_num": 1}},
            "towers of a probe are always frozen.* or set finetune.trainable: all",
        ),
    ],
)
def test_impossible_combinations_are_refused_in_one_line(tmp_path, base, message):
    with pytest.raises(UserError, match=message) as caught:
        planned(tmp_path, "released", base)
    assert "\n" not in str(caught.value)
    assert "one.yaml:" in str(caught.value)


def test_a_model_that_cannot_read_names_of_classes_refuses_them(tmp_path, monkeypatch):
    zero_shot = {"task": "tagging", "finetune": None}
    assert planned(tmp_path, "ours", zero_shot)["evaluate"].class_names
    monkeypatch.setattr(Model, "names_classes", False)
    with pytest.raises(UserError, match="with the names of classes, which this model cannot"):
        planned(tmp_path, "ours", zero_shot)


def test_a_preset_part_of_a_table_names_a_dataset_of_its_columns(tmp_path):
    with pytest.raises(UserError, match="presets.released.vatex: no column has this dataset"):
        planned(tmp_path, "released", presets={"released": {"vatex": {"test": "test"}}})
    with pytest.raises(UserError, match="presets.official"):
        planned(tmp_path, "released", presets={"official": {"msrvtt": {"test": "test_1k"}}})


@pytest.mark.parametrize("preset", ["ours", "paper", "released", "released_half"])
def test_every_shipped_table_can_be_planned_under_every_preset(preset):
    plan = make_plan([REPO / "config.yaml"], {"preset": preset})
    assert set(plan.tables) == {path.stem for path in (REPO / "experiments").glob("*.yaml")}
    tuned = [plan.runs[key] for key in plan.stage("finetune")]
    selected = "best_test_as_paper" in {run.selection for run in tuned}
    assert selected == preset.startswith("released")

"""Rows of CoAVT: their defaults, and combinations that are refused."""

import pytest
from pydantic import ValidationError

from clip4vla.common.errors import UserError
from clip4vla.config.families import family_settings
from clip4vla.config.keys import run_key
from clip4vla.config.planner import make_plan
from clip4vla.config.recipe import Recipe
from clip4vla.config.run import Evaluate, Finetune, Pretrain
from clip4vla.config.variant import Variant
from clip4vla.config.yaml import merge
from clip4vla.datasets.ready import missing_files
from clip4vla.models.coavt.objective import Objective

SOURCES = {"sources": [{"dataset": "demo"}]}


def recipe(**values):
    """Return the recipe of a row with the preset `ours`."""
    values["model"] = {"family": "coavt", **values.get("model", {})}
    lowest = family_settings("coavt").preset_values("ours", values, None)
    return Recipe.model_validate(merge(lowest, values))


def pretrain(**values):
    return {"pretrain": SOURCES | values}


def test_the_preset_reads_what_the_paper_reads():
    row = recipe(finetune={}, **pretrain())
    assert row.cache.log_mel.n_mels == 128 and row.cache.log_mel.window == "hann"
    for inputs in (row.inputs, row.pretrain.inputs):
        assert (inputs.max_frames, inputs.max_segments, inputs.segment_steps) == (1, 1, 1024)
        assert inputs.train_frames == 1 and inputs.train_crop
    assert row.pretrain.trainable == "all" and row.pretrain.optimiser.batch_size == 512
    assert isinstance(row.pretrain.objective, Objective)
    sizes = row.model.sizes(vocabulary=30523, inputs=row.inputs)
    assert sizes.audio_grid == (8, 64) and sizes.image_grid == (14, 14)


def test_draws_are_left_out_where_nothing_reads_them():
    assert recipe(modalities=["vision"], finetune={}).inputs.train_crop is False
    labels = recipe(task="classification", finetune={})
    assert labels.inputs.train_frames is None
    tuned = recipe(task="tagging", finetune={"trainable": "all"})
    assert tuned.inputs.train_frames == 1 and tuned.finetune.optimiser.head_lr == 5e-3


def test_values_of_the_preset_that_a_choice_of_the_row_leaves_unread_are_left_out():
    """Otherwise the row would be refused for keys that it does not have."""
    of_sound = {"audio_visual_text": 0, "visual_text": 0}
    inputs = recipe(**pretrain(objective=of_sound)).pretrain.inputs
    assert inputs.train_frames is None and inputs.train_crop
    of_pictures = {"audio_visual_text": 0, "audio_text": 0}
    inputs = recipe(**pretrain(objective=of_pictures)).pretrain.inputs
    assert inputs.train_frames == 1 and not inputs.train_crop
    inputs = recipe(**pretrain(objective=of_sound, second_stage={})).pretrain.inputs
    assert inputs.train_frames == 1 and inputs.train_crop
    row = recipe(task="captioning", finetune={}, decoding={"method": "greedy"})
    assert row.decoding.method == "greedy"
    by_clip = {"standardisation": "clip"}
    row = recipe(inputs=by_clip, **pretrain(inputs=by_clip))
    assert row.inputs.log_mel_mean is None and row.pretrain.inputs.log_mel_std is None


def test_weights_may_replace_pretraining():
    assert recipe(pretrain={"from": "imported"}).pretrain.initialise_from == "imported"


def test_a_contrast_of_sounds_and_pictures_may_compare_pairs_alone():
    only = {"contrast": 0, "matching": 0, "language": 0, "audio_visual_contrast": 1}
    assert recipe(**pretrain(objective=only | {"grouped": False})).pretrain.objective.modalities


def test_word_pieces_come_from_bert_or_from_a_whole_model():
    values = {"model": {"tokenizer": "bert"}, "pretrain": {"from": "ours"}}
    assert recipe(**values).model.first_weights == []


def test_presets_leave_out_stages_that_a_row_lacks():
    values = family_settings("coavt").preset_values("paper", {}, None)
    assert "pretrain" not in values and "finetune" not in values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nonverbal_share": 0.3}, "nonverbal_share: a model of family coavt does not read it"),
        (pretrain(trainable="audio"), "all of CoAVT is pre-trained. Fix: set it to all"),
        (pretrain(masking={"mode": "paper"}), "pretrain.masking: a model of family coavt does"),
        (pretrain(type_token="both"), "has no type token"),
        (pretrain(freeze={"layer_num": 2}), "pretrain.freeze.layer_num: a model of family coavt"),
        (pretrain(inputs={"segment_steps": 512}), "differs from inputs.segment_steps"),
        (pretrain(second_stage={"freeze": {"layer_num": 2}}), "pretrain.second_stage.freeze."),
        ({"cache": {"log_mel": {"n_mels": 224}}}, "n_mels is 224, but base reads 128 bands"),
        ({"cache": {"log_mel": {"channels": "left_mean_right"}}}, "Fix: set it to mean"),
        ({"inputs": {"segment_steps": 1000}}, "1000 is no multiple of the patch of 16"),
        ({"inputs": {"max_segments": 2}}, "one segment is read of each clip"),
        ({"model": {"shared_layers": 12}}, "leaves base no block for each modality"),
        ({"model": {"tokenizer": "bert"}}, "Fix: set model.text_weights"),
        ({"model": {"text_weights": "bert"}}, "Fix: set model.tokenizer: bert"),
        ({"donor_mean": "plain"}, "donor_mean: a model of family coavt does not read it"),
        (
            {"task": "captioning", "finetune": {}, "decoding": {"positions": "sliding", "cache": False}},
            "decoding.positions: a model of family coavt",
        ),
        ({"task": "captioning", "finetune": {"pad_loss": True}}, "finetune.pad_loss: a model"),
        ({"finetune": {"freeze": {"layer_num": 2}}}, "finetune.freeze.layer_num: a model of"),
        ({"finetune": {"optimiser": {"kind": "bert_adam"}}}, "finetune.optimiser.kind: bert_adam"),
        (pretrain(optimiser={"kind": "bert_adam"}), "pretrain.optimiser.kind: bert_adam decays"),
        (
            pretrain(second_stage={"optimiser": {"kind": "bert_adam", "precision": "half_weights"}}),
            "pretrain.second_stage.optimiser.kind: bert_adam decays",
        ),
        ({"finetune": {"freeze": {"prefixes": ["fusion"]}}}, "no parameter name begins with"),
        ({"finetune": {"freeze": {"prefixes": ["text."]}}}, "no parameter name begins with 'text.'"),
        ({"finetune": {"freeze": {"prefixes": ["probe"]}}}, "no parameter name begins with 'probe'"),
        (
            {"rescore": 3, "finetune": {"objective": {"matching": 0}}},
            "rescore: the matching head scores pairs, and no training of this row has matching",
        ),
        (
            {"rescore": 3, **pretrain(objective={"matching": 0})},
            "rescore: the matching head scores pairs, and no training of this row has matching",
        ),
        ({"missing_audio": "zeros"}, "missing_audio: zeros: sound that is all zeros is not read"),
        ({"inputs": {"extra_segment": True}}, "inputs.extra_segment: one segment is read of each"),
        ({"model": {"positions": "tuned"}}, "tuned ones learn in a fine-tuning of the audio"),
        (
            {"task": "tagging", "finetune": {}, "model": {"positions": "tuned"}},
            "tuned ones learn in a fine-tuning of the audio",
        ),
        (
            {"modalities": ["audio"], "finetune": {"objective": {"visual_text": 2}}},
            "finetune.objective.visual_text has no effect on what is learned from audio",
        ),
        (
            {"modalities": ["vision"], "finetune": {"objective": {"audio_visual_text": 0}}},
            "finetune.objective.audio_visual_text has no effect on what is learned from vision",
        ),
        (
            pretrain(objective={"audio_text": 0, "visual_text": 0, "bimodal_language": 1}),
            "objective.bimodal_language has no effect on what is learned from vision and audio",
        ),
        ({"task": "captioning", "finetune": {"objective": {"matching": 2}}}, "task captioning does"),
        ({"task": "tagging", "finetune": {"objective": {"language_smoothing": 0}}}, "task tagging"),
        (
            {"modalities": ["vision"], "finetune": {"objective": {"audio_visual_contrast": 1}}},
            "compares sounds with pictures, but only vision is read",
        ),
        (
            {"modalities": ["vision"], "finetune": {"objective": {"visual_text": 0}}},
            "all losses or all alignments have weight 0 for vision",
        ),
        (
            pretrain(objective={"contrast": 0, "matching": 0, "language": 0}),
            "all losses or all alignments have weight 0 for vision and audio",
        ),
        (
            pretrain(
                inputs={"train_crop": True}, objective={"audio_visual_text": 0, "audio_text": 0}
            ),
            "pretrain.inputs.train_crop: pre-training reads no audio",
        ),
        (pretrain(objective={"contrast": 0, "smoothing": 0}), "smoothing only has an effect with"),
        (pretrain(objective={"language": 0, "bimodal_language": 1}), "an effect with language"),
        (pretrain(objective={"inter": False}), "inter"),
    ],
)  # fmt: skip
def test_impossible_rows_are_refused(values, message):
    with pytest.raises(ValidationError) as caught:
        recipe(**values)
    assert message in str(caught.value)


def test_an_encoder_of_texts_apart_can_be_frozen():
    freeze = {"prefixes": ["text.", "que", "query.layers.0"]}
    row = recipe(model={"share_text": False}, finetune={"freeze": freeze})
    assert row.finetune.freeze.prefixes == freeze["prefixes"]


def test_pairs_are_scored_again_by_a_head_that_is_trained_before():
    without = {"finetune": {"objective": {"matching": 0}}}
    assert recipe(rescore=3, **without, **pretrain()).rescore == 3
    assert recipe(rescore=3, **without, pretrain={"from": "ours"}).rescore == 3
    assert recipe(rescore=3).rescore == 3  # of initial weights


def test_zeros_are_refused_as_a_variant_too():
    with pytest.raises(ValueError, match="variant missing_audio=zeros: sound that is all zeros"):
        recipe().model.check_variant(Variant(missing_audio="zeros"))


def test_alignments_follow_the_modalities_and_weights():
    assert Objective().alignments(["vision", "audio"]) == ["av", "a", "v"]
    assert Objective().alignments(["audio"]) == ["a"]
    of_sound = Objective(audio_visual_text=0, visual_text=0)
    assert of_sound.alignments(["vision", "audio"]) == ["a"] and of_sound.modalities == ["audio"]
    both = Objective(audio_visual_text=0, visual_text=0, audio_visual_contrast=1)
    assert both.modalities == ["vision", "audio"]


def test_words_weigh_in_the_widest_alignment_that_learns():
    wanted, both = Objective(language=2, bimodal_language=0.5), ["vision", "audio"]
    assert [wanted.language_weight(name, both) for name in ("av", "a", "v")] == [2, 1, 1]
    apart = Objective(audio_visual_text=0)
    assert [apart.language_weight(name, both) for name in ("a", "v")] == [1, 1]
    assert wanted.language_weight("v", ["vision"]) == 2


TABLE = """
table: t
title: T
columns: [{dataset: demo, metric: t2v_R1}]
base: {model: {family: coavt, architecture: tiny}}
rows: [{row: r, label: R, %s}]
"""


@pytest.fixture
def plan(tmp_path):
    def make(row, **config):
        (tmp_path / "t.yaml").write_text(TABLE % row)
        (tmp_path / "paper.tsv").write_text("table\trow\tdataset\tmetric\tvalue\tsource\n")
        lines = ["experiments: .", "targets: [t]", "paper: paper.tsv"]
        lines += [f"{key}: {value}" for key, value in config.items()]
        lines += ["datasets: {demo: {reader: demo, annotations: d, media: m, expected: {}}}"]
        (tmp_path / "config.yaml").write_text("\n".join(lines) + "\n")
        return make_plan([tmp_path / "config.yaml"])

    return make


@pytest.mark.parametrize("preset", ["released", "released_half"])
def test_a_preset_of_released_code_is_refused(plan, preset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = rf"t.yaml:\d+: table t, row r: preset {preset}: no code of CoAVT was released"
    with pytest.raises(ValueError, match=message):
        plan(f"preset: {preset}")


def test_under_a_config_of_released_presets_rows_are_ours(plan, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    row = "set: {missing_audio: none, finetune: {}}"
    assert plan(row, preset="released").runs == plan(row).runs


def test_a_row_is_a_chain_of_runs(plan, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = plan(
        "set: {missing_audio: none, finetune: {}, model.positions: tuned, "
        "pretrain: {sources: [{dataset: demo, split: train}]}}"
    )
    runs = {type(run): run for run in found.runs.values()}
    assert set(runs) == {Pretrain, Finetune, Evaluate}
    assert runs[Pretrain].model.positions == "fixed" and runs[Finetune].model.positions == "tuned"
    assert runs[Finetune].start == run_key(runs[Pretrain])
    assert isinstance(runs[Finetune].objective, Objective)


def test_both_encoders_have_first_weights_of_the_config(plan, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    both = "{weights: enc, tokenizer: bert, text_weights: bert}"
    named = f"set: {{missing_audio: none, finetune: {{}}, model: {both}}}"
    weights = "{enc: {path: enc.pt}, bert: {path: folder}}"
    found = plan(named, weights=weights)
    (run,) = (run for run in found.runs.values() if isinstance(run, Finetune))
    assert found.weights_of(run) == ["enc", "bert"]
    problems = missing_files(found)
    assert any("weights bert: " in problem and "missing" in problem for problem in problems)
    assert run.model.without_first_weights().first_weights == []
    with pytest.raises(UserError, match="no weights 'bert' in the config"):
        plan(named, weights="{enc: {path: enc.pt}}")

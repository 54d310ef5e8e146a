"""Values of CLIP4VLA's presets: its paper, its released code, and our defaults.

`ours` has the defaults of the sections themselves. Each switch is explained in docs/deviations.md.
"""

from typing import Any

from clip4vla.config.presets import Preset, chain
from clip4vla.config.yaml import merge, undotted

PRESETS: dict[Preset, dict[str, Any]] = {
    "ours": {},
    "paper": {
        "cache.log_mel.kind": "fbank",  # D2
        "cache.log_mel.window": "hamming",
        "pretrain.masking.mode": "paper",  # D7
        "pretrain.type_token": "single",  # D8: one token for each data set,
        "model.type_token": "both",  # and both at fine-tuning and test
        "substitute_scope": "test",  # D11
        "pretrain.leaks": "keep",
    },
    "released": {
        "inputs.extra_segment": True,  # D5
        "pretrain.inputs.extra_segment": True,
        "model.extra_position": "released",  # facts 3.3
        "donor_mean": "plain",  # facts 10.2
        "finetune.pad_loss": True,  # facts 8.2
        "decoding.method": "beam",  # facts 8.3
        "decoding.stopping": "released",
        "decoding.positions": "sliding",
        "decoding.cache": False,
        "finetune.optimiser.kind": "bert_adam",  # facts 6.5
        "finetune.optimiser.lr": 1e-7,  # facts 7.4
        "finetune.selection": "best_test_as_paper",  # facts 7.5, 8.2, 9.1
        "finetune.val": None,
        "pretrain.optimiser.kind": "bert_adam",
        "pretrain.optimiser.lr": 1e-7,  # facts 6.3
        "pretrain.optimiser.epochs": 10,
        "pretrain.optimiser.batch_size": 256,
        "pretrain.second_stage.optimiser.kind": "bert_adam",
        "pretrain.second_stage.optimiser.lr": 1e-7,
        "pretrain.second_stage.objective.second_stage": "released",  # facts 5.3
        "pretrain.leaks": "keep",
    },
    "released_half": {  # `released` and its float16 weights: a study (facts 6.6, D12)
        "finetune.optimiser.precision": "half_weights",
        "pretrain.optimiser.precision": "half_weights",
        "pretrain.second_stage.optimiser.precision": "half_weights",
    },
}

# Values of the released scripts by task and the dataset's reader (facts 7.4, 8.2, 9.1).
SCRIPTS: dict[tuple[str, str], dict[str, Any]] = {
    ("retrieval", "msrvtt"): {"inputs.max_segments": 16},
    ("retrieval", "vatex"): {"inputs.max_segments": 6},
    ("retrieval", "audiocaps"): {
        "inputs.max_segments": 6,
        "nonverbal_share": 1.0,
        "finetune.optimiser.epochs": 15,
        "finetune.optimiser.lr": 2e-7,
    },
    ("captioning", "msrvtt"): {"inputs.max_segments": 16},
    ("captioning", "vatex"): {"inputs.max_segments": 6, "inputs.max_words": 48},
    ("captioning", "audiocaps"): {
        "inputs.max_segments": 6,
        "nonverbal_share": 1.0,
        "finetune.optimiser.epochs": 15,
    },
    ("classification", "esc50"): {
        "inputs.max_segments": 3,
        "nonverbal_share": 1.0,
        "finetune.optimiser.head_lr": 5e-3,
    },
}
TASKS: dict[str, dict[str, Any]] = {  # values by task on any dataset
    "retrieval": {"finetune.optimiser.epochs": 5, "finetune.optimiser.batch_size": 128},
    "captioning": {
        "inputs.extra_word": True,  # facts 8.2
        "finetune.optimiser.epochs": 10,
        "finetune.optimiser.batch_size": 64,
    },
    "classification": {"finetune.optimiser.epochs": 10, "finetune.optimiser.batch_size": 64},
}
JOINT_BATCH = {"global_to_local": 128, "tight": 64, "local_to_local": 32}  # facts 7.4, 13.4


def scripts() -> dict[str, dict[str, Any] | str]:
    """Return what `released` sets by task and reader, for docs/config.md."""
    return {
        **TASKS,
        **{f"{task}, {reader}": values for (task, reader), values in SCRIPTS.items()},
        "retrieval through a joint encoder": "10 epochs (AudioCaps 15), lr 1e-7, batches of "
        "128 (`global_to_local`), 64 (`tight`) or 32 (`local_to_local`; AudioCaps 64); on MSR-VTT "
        "`global_to_local` has the `bert` style of joint encoder",
        "pre-training with `trainable: all`": "`pretrain.objective.second_stage: released`",
    }


def preset_values(preset: Preset, recipe: dict[str, Any], reader: str | None) -> dict[str, Any]:
    """Return the values of a preset for a row, nested, a layer below the row's own `recipe`.

    They change only stages that the row has. reader: of the row's dataset, on which the released
    scripts depend.
    """
    task = recipe.get("task", "retrieval")
    names = chain(preset)
    layers = [PRESETS[name] for name in names]
    if "released" in names:
        layers[1:1] = _script(task, reader, recipe)
    value: dict[str, Any] = {}
    for layer in layers:
        value = merge(value, undotted(layer))
    for stage in ("pretrain", "finetune"):
        if recipe.get(stage) is None:
            value.pop(stage, None)
    pretrain = recipe.get("pretrain") or {}
    only_weights = pretrain.get("from") is not None and pretrain.get("second_stage") is None
    # A row that sets a token has it in every stage.
    if only_weights or "type_token" in (recipe.get("model") or {}):
        value.get("pretrain", {}).pop("type_token", None)
    if pretrain.get("second_stage") is None:
        value.get("pretrain", {}).pop("second_stage", None)
    if task != "captioning":
        value.pop("decoding", None)
    return value


def _script(task: str, reader: str | None, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the values of the released scripts beyond the preset itself."""
    layers = [TASKS.get(task, {}), SCRIPTS.get((task, reader), {}) if reader else {}]
    fusion = recipe.get("model", {}).get("fusion")
    if fusion in JOINT_BATCH:
        epochs, batch = 10, JOINT_BATCH[fusion]
        if reader == "audiocaps":
            epochs, batch = 15, max(batch, 64)
        joint = {"epochs": epochs, "batch_size": batch, "lr": 1e-7}
        layers.append({"finetune.optimiser": joint})
        if (reader, fusion) == ("msrvtt", "global_to_local"):
            layers.append({"model.joint": "bert"})  # of the published number (facts 7.3)
    pretrain = recipe.get("pretrain") or {}
    if pretrain.get("trainable") == "all" and pretrain.get("objective", {}).get("inter", True):
        layers.append({"pretrain.objective.second_stage": "released"})  # facts 5.3
    return layers

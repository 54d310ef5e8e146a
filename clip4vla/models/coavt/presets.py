"""Values of CoAVT's presets.

`ours` and `paper` are the same: where the paper's text is known (facts 1.1, 1.2) both follow it;
optimisers, batches and everything of section 6 of the facts are our choice.
"""

from typing import Any

from pydantic import ValidationError

from clip4vla.config.presets import Preset
from clip4vla.config.sections import LABEL_TASKS, Modality
from clip4vla.config.yaml import merge, undotted
from clip4vla.models.coavt.objective import Objective

LOG_MEL: dict[str, Any] = {  # 25 ms Hann windows every 10 ms, 128 bands (facts 1.1)
    "kind": "fbank",
    "window": "hann",
    "n_mels": 128,
    "sample_rate": 16000,
    "n_fft": 400,
    "hop": 160,
    "channels": "mean",
}
INPUTS: dict[str, Any] = {  # 10.24 s of sound and one frame (facts 1.1, 1.2)
    "max_frames": 1,
    "frame_choice": "middle",
    "max_segments": 1,
    "segment_steps": 1024,
    "standardisation": "fixed",
    "log_mel_mean": -5.081,
    "log_mel_std": 4.4849,
}
DRAWS: dict[str, dict[str, Any]] = {  # of training, by the modality that has them (facts 1.1, 1.2)
    "vision": {"train_frames": 1},
    "audio": {"train_crop": True},
}
OURS: dict[str, Any] = {
    **{f"cache.log_mel.{name}": value for name, value in LOG_MEL.items()},
    **{f"inputs.{name}": value for name, value in INPUTS.items()},
    **{f"pretrain.inputs.{name}": value for name, value in INPUTS.items()},
    "pretrain.inputs.train_frames": 1,
    "pretrain.inputs.train_crop": True,
    "pretrain.trainable": "all",
    "pretrain.optimiser.lr": 1e-4,  # from here on our choice: the paper's are unknown (facts 3)
    "pretrain.optimiser.head_lr": 1e-4,
    "pretrain.optimiser.weight_decay": 0.05,
    "pretrain.optimiser.epochs": 10,
    "pretrain.optimiser.batch_size": 512,
    "finetune.optimiser.lr": 1e-5,
    "finetune.optimiser.head_lr": 1e-5,
    "finetune.optimiser.weight_decay": 0.05,
}
PRESETS: dict[Preset, dict[str, Any]] = {"ours": OURS, "paper": OURS}
TASKS: dict[str, dict[str, Any]] = {  # by task
    "captioning": {
        "finetune.optimiser.epochs": 10,
        "finetune.optimiser.batch_size": 64,
        "decoding.method": "beam",  # BLIP-2's (facts 2.4)
        "decoding.beams": 3,
    },
    "classification": {"finetune.optimiser.lr": 1e-4, "finetune.optimiser.head_lr": 1e-3},
    "tagging": {"finetune.optimiser.lr": 5e-5, "finetune.optimiser.head_lr": 5e-3},  # facts 4.2
}

NEEDED = {  # value of a preset -> the choice without which nothing reads it
    "beams": ("method", "beam"),
    "log_mel_mean": ("standardisation", "fixed"),
    "log_mel_std": ("standardisation", "fixed"),
}


def preset_values(preset: Preset, recipe: dict[str, Any], reader: str | None) -> dict[str, Any]:
    """Return the values of a preset for a row, nested, a layer below the row's own `recipe`.

    ValueError for the presets of released code: none of CoAVT exists.
    """
    if preset not in PRESETS:
        raise ValueError(
            f"preset {preset}: no code of CoAVT was released. Fix: give the row preset: ours"
        )
    task = recipe.get("task", "retrieval")
    values = merge(undotted(PRESETS[preset]), undotted(TASKS.get(task, {})))
    tuning = recipe.get("finetune")
    if tuning is not None and not (task in LABEL_TASKS and tuning.get("trainable") != "all"):
        for modality in recipe.get("modalities", DRAWS):
            values["inputs"] |= DRAWS.get(modality, {})
    for stage in ("pretrain", "finetune"):
        if recipe.get(stage) is None:
            values.pop(stage, None)
    if pretrain := values.get("pretrain"):
        for modality in DRAWS.keys() - _pretrained_modalities(recipe["pretrain"]):
            for name in DRAWS[modality]:
                pretrain["inputs"].pop(name)
        _leave_out_unread(pretrain["inputs"], recipe["pretrain"].get("inputs"))
    _leave_out_unread(values["inputs"], recipe.get("inputs"))
    _leave_out_unread(values.get("decoding", {}), recipe.get("decoding"))
    return values


def _pretrained_modalities(pretrain: dict[str, Any]) -> set[Modality]:
    """Return the modalities that the stages of a row's pre-training read.

    For an invalid objective, which the validation of the row reports, that of the default.
    """
    found: set[Modality] = set()
    for stage in (pretrain, pretrain.get("second_stage")):
        if stage is not None:
            try:
                found |= {*Objective.model_validate(stage.get("objective", {})).modalities}
            except ValidationError:
                found |= {*Objective().modalities}
    return found


def _leave_out_unread(values: dict[str, Any], chosen: dict[str, Any] | None) -> None:
    """Remove the preset's values of a section that the row's choices in it leave without effect."""
    for name, (choice, needed) in NEEDED.items():
        if chosen and chosen.get(choice, needed) != needed:
            values.pop(name, None)

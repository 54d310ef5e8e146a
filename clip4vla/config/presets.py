"""Three named sets of switches: what the paper says, what its code did, what we do by default.

`ours` is the defaults of the sections themselves. Each switch is explained in docs/deviations.md.
"""

from typing import Any, Literal

Preset = Literal["ours", "paper", "released"]

PRESETS: dict[str, dict[str, Any]] = {
    "ours": {},
    "paper": {
        "cache.log_mel.kind": "fbank",  # D2
        "cache.log_mel.window": "hamming",
        "pretrain.masking.mode": "paper",  # D7
        "model.type_token": "both",  # D8
        "substitute_scope": "test",  # D11
        "pretrain.leaks": "keep",
    },
    "released": {
        "inputs.extra_segment": True,  # D5
        "pretrain.inputs.extra_segment": True,
        "model.extra_position": "released",  # facts 3.3
        "finetune.pad_loss": True,  # facts 8.2
        "decoding.method": "beam",  # facts 8.3
        "decoding.stopping": "released",
        "decoding.positions": "sliding",
        "decoding.cache": False,
        "finetune.optimiser.lr": 1e-7,  # facts 7.4
        "pretrain.optimiser.lr": 1e-7,
        "pretrain.second_stage.optimiser.lr": 1e-7,
        "pretrain.second_stage.objective.second_stage": "released",  # facts 5.3
        "pretrain.leaks": "keep",
    },
}

"""Which scientific keys become MLflow params: what rows of tables differ in.

Everything else (cache ids, JPEG quality, keys of other runs) is in the artifact config.json.
"""

MAX_PARAMS = 100
ALLOWED = (  # names, and beginnings of names that end with a dot
    "seed",
    "task",
    "modalities",
    "trainable",
    "selection",
    "missing_audio",
    "sources",
    "train.split",
    "train.nonverbal_share",
    "val.split",
    "test.split",
    "test.nonverbal_share",
    "donors.split",
    "neighbours",
    "mean",
    "pad_loss",
    "scale",
    "model.",
    "inputs.",
    "masking.",
    "objective.",
    "optimiser.",
    "freeze.",
    "decoding.",
    "cache.log_mel.",
    "cache.frames.fps",
    "dataset",
    "version",
    "targets",
    "preset",
)
EXACT = frozenset(name for name in ALLOWED if not name.endswith("."))
GROUPS = tuple(name for name in ALLOWED if name.endswith("."))


def allowed(params: dict[str, str]) -> dict[str, str]:
    """The params that MLflow is given, at most MAX_PARAMS, in the order of their names."""
    chosen = [name for name in sorted(params) if name in EXACT or name.startswith(GROUPS)]
    return {name: params[name] for name in chosen[:MAX_PARAMS]}

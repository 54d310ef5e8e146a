"""Scientific keys that become MLflow params: those in which rows of tables differ.

The artifact config.json has all others (cache ids, JPEG quality, keys of other runs).
"""

MAX_PARAMS = 100
ALLOWED = (  # names, and beginnings of names that end with a dot
    "seed",
    "task",
    "modalities",
    "query",
    "trainable",
    "label_smoothing",
    "sampling",
    "class_names",
    "test_frames",
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
    "augment.",
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
    """Return the params that MLflow gets, at most MAX_PARAMS, sorted by name."""
    chosen = [name for name in sorted(params) if name in EXACT or name.startswith(GROUPS)]
    return {name: params[name] for name in chosen[:MAX_PARAMS]}

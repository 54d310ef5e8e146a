"""Describe the model behind a number, and how it differs from the paper's."""

from clip4vla.results.metrics_file import MadeWith, TrainedOn

# The paper's model: CLIP's own ViT-B/32 (facts 3.1), as OpenAI and open_clip publish it.
ARCHITECTURES = ("ViT-B-32", "ViT-B-32-quickgelu")
ACTIVATION = "quick_gelu"
WEIGHTS = ("OpenAI's ViT-B-32.pt", *(f"open_clip's {name}:openai" for name in ARCHITECTURES))
PRETRAINING = ("audioset", "howto100m")
# Rows of the paper's model, by whether they start from its pre-training (facts 13.1).
PRETRAINED = {"clip": False, "scratch": False, "initial": False} | dict.fromkeys(
    ("clip4vla", "clip4vla_a", "clip4vla_av", "inter", "intra", "type_token"), True
)
SHOWN_DIGITS = 12  # of a sha256 in print
COLUMNS = (
    "reader",
    "model",
    "weights",
    "weights_sha256",
    "pretraining",
    "finetuning",
    "unlike_paper",  # how the model differs from the paper's; empty: it does not
    "training_lacks",  # clips that training did not have; empty: none
)


def described(made: MadeWith | None) -> dict[str, str | None]:
    """Return the values of `COLUMNS`: each a short text, or None."""
    if made is None:
        unknown = dict.fromkeys(("model", "weights", "pretraining", "finetuning"), "not recorded")
        why = "its metrics.json does not record the model (an older version wrote it)"
        return {**dict.fromkeys(COLUMNS), **unknown, "unlike_paper": why}
    return {
        "reader": made.reader,
        "model": _model(made),
        "weights": _weights(made),
        "weights_sha256": made.weights_sha256,
        "pretraining": _trained(made, "pretrain"),
        "finetuning": _trained(made, "finetune"),
        "unlike_paper": "; ".join(_differences(made)) or None,
        "training_lacks": "; ".join(_lacks(made)) or None,
    }


def other_pretraining(row: str, pretraining: str) -> str:
    """Return how the pre-training of a number differs from that of the paper's row, or "".

    pretraining: of `described`, "" for none.
    """
    if row not in PRETRAINED or PRETRAINED[row] == bool(pretraining):
        return ""
    ours, theirs = ("was", "was not") if pretraining else ("was not", "was")
    return f"it {ours} pre-trained, the paper's row {theirs}"


def _model(made: MadeWith) -> str:
    return f"{made.architecture} ({made.activation})" if made.activation else made.architecture


def _weights(made: MadeWith) -> str:
    if made.weights is None:
        return "random"
    kind = made.published or ("an imported model" if made.imported else "an unknown file")
    return f"{made.weights} ({kind}, sha256 {(made.weights_sha256 or '')[:SHOWN_DIGITS]})"


def _trained(made: MadeWith, stage: str) -> str | None:
    """Return `run 1a2b… on DATA, then run …` of pre-training, `DATA` of fine-tuning, or None."""
    parts = []
    for training in made.trainings:
        if training.stage == stage:
            data = " and ".join(_clips(item) for item in training.clips)
            parts.append(f"run {training.run_key} on {data}" if stage == "pretrain" else data)
    return ", then ".join(parts) or None


def _clips(item: TrainedOn) -> str:
    return f"{item.dataset} {item.split} ({item.clips:,} clips)"


def _differences(made: MadeWith) -> list[str]:
    differences = []
    if made.architecture not in ARCHITECTURES or made.activation != ACTIVATION:
        differences.append(
            f"towers are {_model(made)}, the paper's {ARCHITECTURES[0]} ({ACTIVATION})"
        )
    if made.weights is None:
        differences.append(f"towers began with random weights, the paper's with {WEIGHTS[0]}")
    elif made.imported:
        differences.append(f"it began with {_weights(made)}, whose training is not recorded")
    elif made.published not in WEIGHTS:
        differences.append(f"it began with {_weights(made)}, the paper's with {WEIGHTS[0]}")
    sources = sorted(
        {item.reader for t in made.trainings if t.stage == "pretrain" for item in t.clips}
    )
    if sources and tuple(sources) != PRETRAINING:
        theirs = " and ".join(PRETRAINING)
        differences.append(f"pre-trained on {' and '.join(sources)}, the paper on {theirs}")
    unknown = (
        f"trained on {item.dataset} {item.split}, whose number of clips is not declared"
        for item in _trained_on(made)
        if item.expected is None
    )
    return [*differences, *dict.fromkeys(unknown)]


def _lacks(made: MadeWith) -> list[str]:
    """Describe training splits that are smaller than declared by more than their tolerance."""
    lacking = (
        f"trained on {item.usable:,} of {item.expected:,} clips of {item.dataset} {item.split}"
        for item in _trained_on(made)
        if item.expected is not None and item.usable < item.expected * (1 - (item.tolerance or 0.0))
    )
    return list(dict.fromkeys(lacking))


def _trained_on(made: MadeWith) -> list[TrainedOn]:
    return [item for training in made.trainings for item in training.clips]

"""Build a model with its initial weights from the `model` section of a run."""

from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Inputs
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.initialise import (
    initialise_audio,
    initialise_captioner,
    initialise_fusion,
    initialise_gate,
    initialise_text,
)
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.settings import GATES, JOINT_POSITIONS, Head, Model, check_positions
from clip4vla.models.clip4vla.weights import load_clip
from clip4vla.models.common.initialise import seeded_construction
from clip4vla.models.common.uninitialised import uninitialised


def build_model(
    config: Model,
    weights: dict[str, Path],
    head: Head = None,
    n_classes: int | None = None,
    seed: int = 0,
    inputs: Inputs | None = None,
) -> CLIP4VLA:
    """Build a model, load CLIP's towers and initialise the other parts (facts 3.3, 7.2).

    config: the run's `model` section; weights: the files of the config's `weights`, by name (CLIP
    alone: OpenAI's archive or state dict). If `config.weights` is None, CLIP's towers are random.

    head: the module that a task adds to the towers. None: pre-training, and retrieval by pooled
    vectors. captioning, and fusion for retrieval through the joint encoder: they take the positions
    of vision and audio from `inputs` (the run's section; None: its defaults). gate: of the kind
    `config.fusion`. classification: needs `n_classes`. A joint encoder of style `config.joint` is
    initialised from the text tower (clip) or randomly (bert).

    Equal arguments give equal weights. To start from a run or a complete CLIP4VLA file, call
    `load_into` on the result.
    """
    with seeded_construction(seed):
        model = _construct(config, head, n_classes, inputs or Inputs())
    initialise_text(model, seed)
    initialise_audio(model.audio, config.extra_position, seed)
    if model.captioner is not None:
        initialise_captioner(model.captioner, seed)
    if model.fusion is not None:
        initialise_fusion(model.fusion, seed)
    if model.gate is not None:
        initialise_gate(model.gate, seed)
    if model.probe is not None:
        model.probe.initialise(seed)
    if config.weights is None:
        for part in ("audio", "captioner", "fusion"):
            model.copy_from_clip(part)
    else:
        load_clip(model, _path_of(config.weights, weights))
    return model


def empty_model(config: Model, head: Head, n_classes: int | None, inputs: Inputs) -> CLIP4VLA:
    """Build a model as `build_model` does, with uninitialised parameters, for a file to fill.

    Random weights that a file then overwrites would take seconds at the size of ViT-B/32.
    """
    with uninitialised():
        return _construct(config, head, n_classes, inputs)


def _construct(config: Model, head: Head, n_classes: int | None, inputs: Inputs) -> CLIP4VLA:
    sizes = resolve(config.architecture, config.activation)
    model = CLIP4VLA(sizes, config.type_token, config.audio_init)
    if head in ("captioning", "fusion"):
        clip = config.joint == "clip"  # its joint encoder has the positions of the text tower
        check_positions(inputs, sizes.context_length if clip else JOINT_POSITIONS["bert"])
        add = model.add_captioner if head == "captioning" else model.add_fusion
        add(
            layers=config.joint_layers,
            max_words=inputs.max_words,
            max_frames=inputs.max_frames,
            joint=config.joint,
        )
        if model.fusion is not None and config.fusion == "temporal":
            model.fusion.joint.dropout.p = 0.0  # CLIP4Clip has none there
    elif head == "classification":
        if n_classes is None:
            raise ValueError("head 'classification' needs n_classes")
        model.add_probe(n_classes)
    elif head == "gate":
        assert config.fusion in GATES
        model.add_gate(config.fusion)
    return model


def _path_of(name: str, weights: dict[str, Path]) -> Path:
    if name not in weights:
        known = ", ".join(sorted(weights)) or "nothing"
        raise UserError(
            f"model.weights: {name!r} is not under `weights` in the config (it has {known}). Fix: "
            "add `weights: {" + name + ": PATH}`, or set model.weights to null for random towers"
        )
    return Path(weights[name])

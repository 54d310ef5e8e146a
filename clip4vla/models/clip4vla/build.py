"""From the `model` section of a run to a model with its first weights."""

from pathlib import Path

import torch

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Inputs
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.bert import POSITIONS
from clip4vla.models.clip4vla.initialise import (
    seeded_construction,
    start_audio,
    start_captioner,
    start_fusion,
    start_gate,
    start_probe,
    start_text,
)
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.settings import GATES, Head, Model
from clip4vla.models.clip4vla.weights import load_clip


def build_model(
    config: Model,
    weights: dict[str, Path],
    head: Head = None,
    n_classes: int | None = None,
    seed: int = 0,
    inputs: Inputs | None = None,
) -> CLIP4VLA:
    """Build the towers, fill CLIP's from `config.weights`, start the rest (facts 3.3, 7.2).

    config: the run's `model` section; weights: the files behind the names of the config's
    `weights` (CLIP alone: OpenAI's archive or state dict). With `config.weights` null, CLIP is
    random too.

    head: what the task adds to the towers. Nothing for pre-training and for retrieval by pooled
    vectors; captioning, or fusion for retrieval through the joint encoder, which read `inputs` (the
    run's section; its defaults if None) for the positions of vision and audio; gate, of the kind
    that `config.fusion` names; classification, which needs `n_classes`. A joint encoder of style
    `config.joint` starts from the text tower (clip) or from nothing (bert).

    Equal arguments give equal weights. To go on from a run or from a whole CLIP4VLA file, call
    `load_into` on the result.
    """
    with seeded_construction(seed):
        model = _construct(config, head, n_classes, inputs or Inputs())
    start_text(model, seed)
    start_audio(model.audio, config.extra_position, seed)
    if model.captioner is not None:
        start_captioner(model.captioner, seed)
    if model.fusion is not None:
        start_fusion(model.fusion, seed)
    if model.gate is not None:
        start_gate(model.gate, seed)
    if model.probe is not None:
        start_probe(model.probe, seed)
    if config.weights is None:
        for part in ("audio", "captioner", "fusion"):
            model.restart(part)
    else:
        load_clip(model, _path_of(config.weights, weights))
    return model


def empty_model(config: Model, head: Head, n_classes: int | None, inputs: Inputs) -> CLIP4VLA:
    """As `build_model`, with memory for the parameters and nothing in them: a file must fill all.

    Drawing random weights only to overwrite them takes seconds at the size of ViT-B/32.
    """
    with torch.device("meta"):
        model = _construct(config, head, n_classes, inputs)
    model.to_empty(device="cpu")
    model.text.attn_mask = model.text.build_causal_mask()  # the only buffer; no file holds it
    return model


def _construct(config: Model, head: Head, n_classes: int | None, inputs: Inputs) -> CLIP4VLA:
    sizes = resolve(config.architecture, config.activation)
    model = CLIP4VLA(sizes, config.type_token, config.audio_init)
    if head in ("captioning", "fusion"):
        _check_positions(inputs, sizes.context_length if config.joint == "clip" else POSITIONS)
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
            f"model.weights: {name!r} is not under `weights` in the config (it has {known}): add "
            "`weights: {" + name + ": PATH}`, or set model.weights to null for random towers"
        )
    return Path(weights[name])


def _check_positions(inputs: Inputs, positions: int) -> None:
    wanted = inputs.max_words + inputs.max_frames + inputs.max_segments
    if wanted > positions:
        raise UserError(
            f"inputs: max_words + max_frames + max_segments is {wanted}, but the joint encoder "
            f"has {positions} positions; lower one of them"
        )

"""Build a CoAVT with its first weights from the `model` section of a run."""

from collections.abc import Mapping
from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Inputs
from clip4vla.models.coavt.bert_weights import load_bert
from clip4vla.models.coavt.importers import load_encoder
from clip4vla.models.coavt.initialise_encoder import initialise_encoder
from clip4vla.models.coavt.model import CoAVT
from clip4vla.models.coavt.settings import Model
from clip4vla.models.coavt.text_ids import TEXT_IDS
from clip4vla.models.common.initialise import seeded_construction
from clip4vla.models.common.uninitialised import uninitialised


def build_model(
    config: Model,
    weights: Mapping[str, Path],
    n_classes: int | None,
    seed: int,
    inputs: Inputs,
) -> CoAVT:
    """Build a model, draw its weights, and load those of other projects that the config names.

    weights: the files of the config's `weights`, by name. n_classes: of a probe; None: none.
    Equal arguments give equal weights. To start from a file of ours, load it into the result.
    """
    with seeded_construction(seed):
        model = _construct(config, n_classes, inputs)
    initialise_encoder({"audio": model.audio, "vision": model.vision, "shared": model.shared}, seed)
    if model.probe is not None:
        model.probe.initialise(seed)
    if config.weights is not None:
        path = _path_of("model.weights", config.weights, weights)
        load_encoder(model, path, model.sizes, config)
    if config.text_weights is not None:
        load_bert(model, _path_of("model.text_weights", config.text_weights, weights), model.sizes)
    return model


def empty_model(config: Model, n_classes: int | None, inputs: Inputs) -> CoAVT:
    """Build a model with uninitialised parameters, for a file to fill."""
    with uninitialised():
        return _construct(config, n_classes, inputs)


def _construct(config: Model, n_classes: int | None, inputs: Inputs) -> CoAVT:
    vocabulary = TEXT_IDS[config.tokenizer].vocabulary
    model = CoAVT(config.sizes(vocabulary, inputs), config)
    if n_classes is not None:
        model.add_probe(n_classes)
    return model


def _path_of(key: str, name: str, weights: Mapping[str, Path]) -> Path:
    if name not in weights:
        known = ", ".join(sorted(weights)) or "nothing"
        raise UserError(
            f"{key}: {name!r} is not under `weights` in the config (it has {known}). Fix: add it, "
            f"or set {key} to null for random weights"
        )
    return weights[name]

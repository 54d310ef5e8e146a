"""First weights of the joint audio-visual encoder from files of other projects."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.common.log import log
from clip4vla.models.coavt.cav_mae import is_cav_mae
from clip4vla.models.coavt.cav_mae import translate as translate_cav_mae
from clip4vla.models.coavt.settings import ENCODER, Model
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.coavt.translation import Translation
from clip4vla.models.coavt.vit import is_clip, is_vision_mae, translate_clip, translate_mae
from clip4vla.models.common.archives import ARCHIVE, read_weight_file, unknown_file
from clip4vla.models.common.coverage import compare
from clip4vla.models.common.tensor_files import Tensors

KINDS = {"cav_mae": is_cav_mae, "vision_mae": is_vision_mae, "clip": is_clip}
TITLES = {"cav_mae": "CAV-MAE", "vision_mae": "a vision MAE", "clip": "CLIP"}
SOURCES = "CAV-MAE, a vision MAE, or CLIP with a ViT, from OpenAI or open_clip"
Trained = dict[str, str | bool]  # keys of a `model` section
IMAGENET: Trained = {"image_stats": "imagenet", "activation": "gelu", "input_norm": False}
TRAINED_WITH: dict[str, Trained] = {  # what tensors show badly or not at all
    "cav_mae": IMAGENET,
    "vision_mae": IMAGENET,
    "clip": {"image_stats": "clip", "input_norm": True},
}


@dataclass(frozen=True)
class EncoderReport:
    """What a file provided of the encoder.

    loaded: number of tensors from the file, by part; fresh: names of parameters that keep their
    initial values; unused: names of tensors in the file.
    """

    path: Path
    kind: str
    loaded: dict[str, int]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {count}" for part, count in self.loaded.items())
        fresh = f"; initial values: {', '.join(self.fresh)}" if self.fresh else ""
        return (
            f"{self.path}: tensors from {TITLES[self.kind]}: {parts}{fresh}; "
            f"{len(self.unused)} tensors of the file are not part of the encoder"
        )


def kind_of(state: Tensors) -> str | None:
    """Return the project that wrote a file, a key of `KINDS`, by its names; None: unknown."""
    return next((kind for kind, names_it in KINDS.items() if names_it(state)), None)


def translate(kind: str, state: Tensors, sizes: Sizes) -> Translation:
    """Return the tensors of a file of a kind under our names."""
    match kind:
        case "cav_mae":
            return translate_cav_mae(state)
        case "vision_mae":
            return translate_mae(state, sizes)
        case _:
            return translate_clip(state, sizes)


def load_encoder(
    model: nn.Module, path: str | Path, sizes: Sizes, settings: Model
) -> EncoderReport:
    """Load `audio`, `vision` and `shared` of a model from a file of another project, strictly.

    Half precision is widened exactly. A classifier in the file is not loaded. UserError for an
    unknown file, for settings that it was not trained with, and for tensors that are missing, left
    over, misshapen or not finite: the model then stays unchanged. The report is logged, too.
    """
    path = Path(path)
    file = read_weight_file(path)
    kind = kind_of(file.tensors)
    if kind is None:
        raise unknown_file(path, file.tensors, SOURCES)
    check_trained_with(str(path), kind, settings, from_openai=file.layout == ARCHIVE)
    translation = translate(kind, file.tensors, sizes)
    tensors = {k: v for k, v in translation.tensors.items() if not k.startswith("probe.")}
    parameters: Tensors = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(tuple(f"{part}." for part in ENCODER)) and name not in translation.fresh
    }
    coverage = compare(parameters, tensors, first_rows={})
    if not coverage.complete:
        raise UserError(
            f"{path} ({TITLES[kind]}): {coverage.summary()}. Fix: compare model.architecture, "
            "model.shared_layers and inputs.segment_steps with the file, or give another file of "
            f"{SOURCES}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    classifier = tuple(name for name in translation.tensors if name not in tensors)
    report = EncoderReport(
        path=path,
        kind=kind,
        loaded=dict(Counter(name.split(".", 1)[0] for name in parameters)),
        fresh=translation.fresh,
        unused=(*translation.unused, *classifier),
    )
    log.info(str(report))
    return report


def check_trained_with(where: str, kind: str, settings: Model, from_openai: bool = False) -> None:
    """Raise UserError for a setting that weights of a kind were not trained with.

    where: the file or the config key to name; from_openai: whether the weights are OpenAI's.
    """
    known = TRAINED_WITH[kind] | ({"activation": "quick_gelu"} if from_openai else {})
    for key, value in known.items():
        ours, theirs = (str(x).lower() for x in (getattr(settings, key), value))
        if ours != theirs:
            raise UserError(
                f"{where}: {TITLES[kind]} was trained with model.{key}: {theirs}, but the run has "
                f"{ours}. Fix: set model.{key}: {theirs}"
            )

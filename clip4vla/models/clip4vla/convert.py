"""Files of CLIP and of any CLIP4VLA, as a model of ours with its settings."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.load import validated
from clip4vla.config.settings import Settings
from clip4vla.config.yaml import merge
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.importers import CLIP_KINDS, to_our_names
from clip4vla.models.clip4vla.infer_settings import deduce
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.settings import Head, Model
from clip4vla.models.clip4vla.weights import (
    PARTS,
    TOKENS,
    below,
    coverage_of,
    fill,
    read_named,
    without,
)
from clip4vla.models.common.archives import ARCHIVE, WeightFile
from clip4vla.models.common.conversion import Conversion
from clip4vla.models.common.metadata import read_settings
from clip4vla.models.common.published import known_openai
from clip4vla.models.common.tensor_files import read_metadata

FROM_CLIP = ("text", "vision", "logit_scale")  # parts that a file of CLIP alone can give
HEAD_PARTS = {
    "captioning": "captioner",
    "fusion": "fusion",
    "gate": "gate",
    "classification": "probe",
}
State = dict[str, Tensor]


def convert(
    path: Path,
    kind: str,
    file: WeightFile,
    fresh: tuple[str, ...],
    drop: tuple[str, ...],
    clip: Path | None,
    given: dict[str, Any],
) -> Conversion:
    """Read a file of any supported kind and build the model that it fills.

    fresh: parts, or parts of these (`fusion.similarity`), that take nothing from the file: audio is
    copied from vision, a joint encoder from the text tower; text, vision and logit_scale come from
    `clip`, a file of CLIP alone. drop: parts of the file, by our names or its own (`cross`), that
    the model does not get. given: settings, nested, that win over what the tensors tell. UserError
    for mistakes in any of these.
    """
    sha256 = sha256_of_file(path)
    state = _dropped(path, kind, file.tensors, drop)
    borrowed = _borrowed(fresh, clip)
    merged = {**without(state, tuple(p for p in fresh if p in FROM_CLIP)), **borrowed}
    settings, assumed, known = _settings(path, kind, file, sha256, merged, drop, given)

    classes = len(settings.classes) if settings.classes else None
    model = build_model(model_of(settings), {}, head_of(settings), classes, inputs=settings.inputs)
    taken = {name.split(".", 1)[0] for name in borrowed}
    still_fresh = tuple(part for part in fresh if part not in taken)
    _check_fresh(path, still_fresh, model)
    grows = "openai" if TOKENS in borrowed or kind in CLIP_KINDS else kind
    imported: dict[str, Any] = {
        "file": path.name,
        "sha256": sha256,
        "kind": kind,
        "form": file.form,
        "fresh": sorted(still_fresh),
        "dropped": sorted(drop),
    }
    if clip is not None:
        imported["clip"] = {
            "file": clip.name,
            "sha256": sha256_of_file(clip),
            "parts": sorted(taken),
        }
    return Conversion(
        path=path,
        kind=kind,
        left_out=file.left_out,
        model=model,
        settings=settings,
        coverage=coverage_of(model, merged, still_fresh, grows),
        assumed=assumed,
        origin={**known, "imported": imported},
        fresh=still_fresh,
        copy=partial(fill, model, merged, still_fresh),
    )


def model_of(settings: Settings) -> Model:
    """Return the `model` section, which is this family's."""
    assert isinstance(settings.model, Model)
    return settings.model


def head_of(settings: Settings) -> Head:
    """Return the head of the model."""
    return model_of(settings).head(settings.task)


def _dropped(path: Path, kind: str, tensors: State, drop: tuple[str, ...]) -> State:
    """The tensors under our names, without those that are dropped by their names or ours."""
    theirs = {k: v for k, v in tensors.items() if not below(k, drop)}
    named = to_our_names(path, kind, theirs)
    for name in drop:
        if not any(below(k, (name,)) for k in (*tensors, *named)):
            held = ", ".join(sorted({k.split(".", 1)[0] for k in (*tensors, *named)}))
            raise UserError(f"--drop {name}: {path} has nothing of that name; it has {held}")
    return {k: v for k, v in named.items() if not below(k, drop)}


def _borrowed(fresh: tuple[str, ...], clip: Path | None) -> State:
    """What the file of CLIP gives: of the fresh parts, those that it has."""
    wanted = tuple(part for part in fresh if part in FROM_CLIP)
    if clip is None:
        if lacking := sorted({"text", "vision"} & set(wanted)):
            raise UserError(
                f"--fresh {lacking[0]}: a tower that starts from nothing understands nothing; "
                "give a file of CLIP to take it from: --clip PATH"
            )
        return {}
    if not wanted:
        raise UserError(f"--clip {clip}: nothing is taken from it; name parts with --fresh text")
    kind, state = read_named(clip)
    if kind not in CLIP_KINDS:
        raise UserError(f"--clip {clip}: is not CLIP alone but a file of kind {kind}")
    return {k: v for k, v in state.items() if k.split(".", 1)[0] in wanted}


def _check_fresh(path: Path, fresh: tuple[str, ...], model: CLIP4VLA) -> None:
    for part in fresh:
        if part.split(".", 1)[0] not in PARTS:
            raise UserError(f"--fresh {part}: is no part; the parts are {', '.join(PARTS)}")
        if not any(below(name, (part,)) for name, _ in model.named_parameters()):
            raise UserError(
                f"--fresh {part}: {path} is a model without it, and a run that needs it starts its "
                "own; leave it out"
            )


def _settings(
    path: Path,
    kind: str,
    file: WeightFile,
    sha256: str,
    state: State,
    drop: tuple[str, ...],
    given: dict[str, Any],
) -> tuple[Settings, list[str], dict[str, Any]]:
    """The settings, what in them is assumed, and what else the file says of its origin."""
    metadata = _metadata(path) if kind == "ours" else {}
    known = {k: v for k, v in metadata.items() if k not in (*Settings.model_fields, "format")}
    if "format" in metadata:
        settings = read_settings(path, metadata)
        if (head := head_of(settings)) and HEAD_PARTS[head] in drop:
            bare = {"task": None, "classes": None, "model": settings.model.towers()}
            settings = settings.model_copy(update=bare)
        values, assumed = merge(settings.model_dump(mode="json"), given), []
    else:
        said = {k: metadata[k] for k in ("task", "classes") if metadata.get(k)}  # older files
        given = merge(said, given)
        openai = sha256 in known_openai() or file.form == ARCHIVE
        found = deduce(path, kind, state, given, quick_gelu=openai or kind not in CLIP_KINDS)
        values, assumed = found.values, found.assumed
    settings = validated(Settings, values, [])
    if sha256 in known_openai() and model_of(settings).activation != "quick_gelu":
        raise UserError(f"{path}: is OpenAI's file, trained with quick_gelu: correct --set")
    return settings, assumed, known


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return read_metadata(path)
    except UserError:  # only the names are ours
        return {}

"""Conversion of files of CLIP and of any CLIP4VLA to our model with its settings."""

from functools import partial
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.load import validated
from clip4vla.config.settings import Settings
from clip4vla.config.yaml import merge
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.importers import CLIP_KINDS, kind_of, to_our_names
from clip4vla.models.clip4vla.infer_settings import infer_settings
from clip4vla.models.clip4vla.settings import HEAD_PARTS, Head, Model
from clip4vla.models.clip4vla.weights import (
    PARTS,
    TOKENS,
    copy_tensors,
    coverage_of,
    read_named,
)
from clip4vla.models.common.archives import ARCHIVE, WeightFile
from clip4vla.models.common.conversion import Conversion, check_fresh, without_dropped
from clip4vla.models.common.metadata import read_settings
from clip4vla.models.common.parts import without_parts
from clip4vla.models.common.published import known_openai
from clip4vla.models.common.tensor_files import Tensors, read_metadata

FROM_CLIP = ("text", "vision", "logit_scale")  # parts that a file of CLIP alone can provide


def convert(
    path: Path,
    file: WeightFile,
    fresh: tuple[str, ...],
    drop: tuple[str, ...],
    clip: Path | None,
    overrides: dict[str, Any],
) -> Conversion:
    """Build the model of a file of a supported kind.

    fresh: parts, or parts of these (`fusion.similarity`), that are not loaded from the file: audio
    is copied from vision, a joint encoder from the text tower; text, vision and logit_scale come
    from `clip`, a file of CLIP alone. drop: parts of the file, by our names or its own (`cross`),
    that are not loaded. overrides: nested settings that take precedence over those inferred from
    the tensors. UserError for a mistake in any of these.
    """
    kind, sha256 = kind_of(file.tensors) or "ours", sha256_of_file(path)
    state = without_dropped(path, file.tensors, partial(to_our_names, path, kind), drop)
    clip_state = _clip_state(fresh, clip)
    merged = {**without_parts(state, tuple(p for p in fresh if p in FROM_CLIP)), **clip_state}
    settings, assumed, origin = _settings(path, kind, file, sha256, merged, drop, overrides)

    classes = len(settings.classes) if settings.classes else None
    model = build_model(model_of(settings), {}, head_of(settings), classes, inputs=settings.inputs)
    clip_parts = {name.split(".", 1)[0] for name in clip_state}
    initialised = tuple(part for part in fresh if part not in clip_parts)
    check_fresh(path, initialised, model, PARTS)
    vocabulary_kind = "openai" if TOKENS in clip_state or kind in CLIP_KINDS else kind
    imported: dict[str, Any] = {
        "file": path.name,
        "sha256": sha256,
        "kind": kind,
        "form": file.layout,
        "fresh": sorted(initialised),
        "dropped": sorted(drop),
    }
    if clip is not None:
        imported["clip"] = {
            "file": clip.name,
            "sha256": sha256_of_file(clip),
            "parts": sorted(clip_parts),
        }
    return Conversion(
        path=path,
        kind=kind,
        left_out=file.left_out,
        model=model,
        settings=settings,
        coverage=coverage_of(model, merged, initialised, vocabulary_kind),
        assumed=assumed,
        origin={**origin, "imported": imported},
        fresh=initialised,
        copy=partial(copy_tensors, model, merged, initialised),
    )


def model_of(settings: Settings) -> Model:
    """Return the `model` section, which is this family's."""
    assert isinstance(settings.model, Model)
    return settings.model


def head_of(settings: Settings) -> Head:
    """Return the head of the model."""
    return model_of(settings).head(settings.task)


def _clip_state(fresh: tuple[str, ...], clip: Path | None) -> Tensors:
    """Return the tensors of those fresh parts that the file of CLIP provides."""
    parts = tuple(part for part in fresh if part in FROM_CLIP)
    if clip is None:
        if towers := sorted({"text", "vision"} & set(parts)):
            raise UserError(
                f"--fresh {towers[0]}: a randomly initialised tower is useless here. Fix: pass a "
                "file of CLIP to load it from: --clip PATH"
            )
        return {}
    if not parts:
        raise UserError(f"--clip {clip}: no part is loaded from it. Fix: add --fresh text")
    kind, state = read_named(clip)
    if kind not in CLIP_KINDS:
        raise UserError(f"--clip {clip}: is of kind {kind}. Fix: give a file of CLIP alone")
    return {k: v for k, v in state.items() if k.split(".", 1)[0] in parts}


def _settings(
    path: Path,
    kind: str,
    file: WeightFile,
    sha256: str,
    state: Tensors,
    drop: tuple[str, ...],
    overrides: dict[str, Any],
) -> tuple[Settings, list[str], dict[str, Any]]:
    """Return the settings, which of them are assumed, and further metadata of the file."""
    metadata = _metadata(path) if kind == "ours" else {}
    origin = {k: v for k, v in metadata.items() if k not in (*Settings.model_fields, "format")}
    if "format" in metadata:
        settings = read_settings(path, metadata)
        if (head := head_of(settings)) and HEAD_PARTS[head] in drop:
            headless = {"task": None, "classes": None, "model": settings.model.towers()}
            settings = settings.model_copy(update=headless)
        values, assumed = merge(settings.model_dump(mode="json"), overrides), []
    else:  # another project's file, or one of ours from an older version
        without_head = set(drop) & set(HEAD_PARTS.values())  # without its head, a file has no task
        keys = () if without_head else ("task", "classes")
        stated = {key: metadata[key] for key in keys if metadata.get(key)}
        inferred = infer_settings(
            path,
            kind,
            state,
            overrides=merge(stated, overrides),
            quick_gelu=sha256 in known_openai() or file.layout == ARCHIVE or kind not in CLIP_KINDS,
        )
        values, assumed = inferred.values, inferred.assumed
    settings = validated(Settings, values, [])
    if sha256 in known_openai() and model_of(settings).activation != "quick_gelu":
        raise UserError(
            f"{path}: OpenAI trained this file with quick_gelu. Fix: correct model.activation in "
            "--set"
        )
    return settings, assumed, origin


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return read_metadata(path)
    except UserError:  # the file uses our names but was not written by this project
        return {}

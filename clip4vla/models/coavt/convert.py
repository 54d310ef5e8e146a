"""Conversion of files of CAV-MAE, and of our own, to a CoAVT with its settings."""

from functools import partial
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.families import family_settings
from clip4vla.config.load import validated
from clip4vla.config.settings import Settings
from clip4vla.config.yaml import merge
from clip4vla.models.coavt.build import build_model
from clip4vla.models.coavt.cav_mae import known_classes, translate
from clip4vla.models.coavt.importers import TRAINED_WITH
from clip4vla.models.coavt.settings import Model
from clip4vla.models.coavt.sizes import ARCHITECTURES, DEPTH
from clip4vla.models.coavt.weights import copy_tensors, coverage_of, kind_of, to_our_names
from clip4vla.models.common.archives import WeightFile
from clip4vla.models.common.conversion import Conversion, check_fresh, without_dropped
from clip4vla.models.common.metadata import read_settings
from clip4vla.models.common.tensor_files import Tensors, read_metadata


def convert(
    path: Path,
    file: WeightFile,
    fresh: tuple[str, ...],
    drop: tuple[str, ...],
    clip: Path | None,
    overrides: dict[str, Any],
) -> Conversion:
    """Build the model of a file; see `Family.convert`. CAV-MAE has no text and no queries."""
    if clip is not None:
        raise UserError(
            f"--clip {clip}: no part of CoAVT is loaded from it here. Fix: name it in "
            "model.weights of a row"
        )
    kind, sha256 = kind_of(file.tensors) or "ours", sha256_of_file(path)
    state = without_dropped(path, file.tensors, partial(to_our_names, path, kind), drop)
    assumed: list[str] = []
    origin: dict[str, Any] = {}
    unused: tuple[str, ...] = ()
    if kind == "ours":
        metadata = read_metadata(path)
        settings = _own_settings(path, metadata, drop, overrides)
        origin = {k: v for k, v in metadata.items() if k not in (*Settings.model_fields, "format")}
    else:
        settings, assumed = _inferred_settings(path, state, overrides)
        unused = translate(file.tensors).unused
    classes = len(settings.classes) if settings.classes else None
    config = settings.model.without_first_weights()
    assert isinstance(config, Model)
    model = build_model(config, {}, classes, seed=0, inputs=settings.inputs)
    check_fresh(path, fresh, model, Model.PARTS)
    imported = {
        "file": path.name,
        "sha256": sha256,
        "kind": kind,
        "form": file.layout,
        "fresh": sorted(fresh),
        "dropped": sorted(drop),
    }
    return Conversion(
        path=path,
        kind=kind,
        left_out=(*file.left_out, *_counted(unused)),
        model=model,
        settings=settings,
        coverage=coverage_of(model, state, fresh),
        assumed=assumed,
        origin={**origin, "imported": imported},
        fresh=fresh,
        copy=partial(copy_tensors, model, state, fresh),
    )


def architecture_of(path: Path, tensors: Tensors) -> str:
    """Return the architecture with the shapes of these tensors, under our names. UserError."""
    sizes = {
        "width": _size(tensors, "vision.modality", 0),
        "patch": _size(tensors, "vision.patches.weight", 3),
        DEPTH: _layers(tensors, "vision.blocks.") + _layers(tensors, "shared.blocks."),
    }
    for name, known in ARCHITECTURES.items():
        if all(known.get(key, 16) == size for key, size in sizes.items()):
            return name
    shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
    raise UserError(
        f"{path}: no architecture has these sizes: {shown}. Fix: convert a file of CAV-MAE base"
    )


def _own_settings(
    path: Path, metadata: dict[str, Any], drop: tuple[str, ...], overrides: dict[str, Any]
) -> Settings:
    """Return the settings of a file of ours. Without its probe it has no task."""
    settings = read_settings(path, metadata)
    if "probe" in drop:
        settings = settings.model_copy(update={"task": None, "classes": None})
    return validated(Settings, merge(settings.model_dump(mode="json"), overrides), [])


def _inferred_settings(
    path: Path, tensors: Tensors, overrides: dict[str, Any]
) -> tuple[Settings, list[str]]:
    """Return the settings of a file of CAV-MAE, and a line for each that it does not show."""
    model = {
        "family": "coavt",
        "architecture": architecture_of(path, tensors),
        "shared_layers": _layers(tensors, "shared.blocks."),
        **TRAINED_WITH["cav_mae"],
    }
    read = family_settings("coavt").preset_values("ours", {}, None)
    bands, patch = read["cache"]["log_mel"]["n_mels"], _size(tensors, "vision.patches.weight", 3)
    steps = _size(tensors, "audio.positions", 0) // (bands // patch) * patch
    inputs = read["inputs"] | {"segment_steps": steps}
    values: dict[str, Any] = {"model": model, "inputs": inputs, "cache": read["cache"]}
    assumed = []
    classes = _size(tensors, "probe.linear.bias", 0)
    known = known_classes(classes)
    if classes and "classes" not in overrides:
        values["classes"] = [str(index) for index in range(classes)] if known is None else known
        shown = f"0 to {classes - 1}" if known is None else "those of VGGSound"
        assumed.append(f"classes: {shown} (name them with --classes FILE)")
    if classes and "task" not in overrides:
        values["task"] = "tagging" if known is None else "classification"
        assumed.append(f"task: {values['task']} (no tensor shows it)")
    return validated(Settings, merge(values, overrides), []), assumed


def _counted(unused: tuple[str, ...]) -> tuple[str, ...]:
    """Return one line for tensors of CAV-MAE that CoAVT does not have."""
    return (f"{len(unused)} tensors, such as {unused[0]}",) if unused else ()


def _size(tensors: Tensors, name: str, axis: int) -> int:
    """Return the size of a tensor along an axis; 0 if it is missing."""
    shape = tensors[name].shape if name in tensors else ()
    return shape[axis] if len(shape) > axis else 0


def _layers(tensors: Tensors, prefix: str) -> int:
    """Return the number of blocks whose names begin with a prefix."""
    return len({n[len(prefix) :].split(".", 1)[0] for n in tensors if n.startswith(prefix)})

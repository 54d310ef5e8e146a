"""Load the user's config: merge its files, resolve paths, validate all of it."""

import json
import re
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.config.base import AT_KEY, Name, Section, each_once, runtime
from clip4vla.config.data import Dataset
from clip4vla.config.families import FamilyModel, FamilyObjective, family_in, family_settings
from clip4vla.config.objectives import family_named
from clip4vla.config.presets import Preset
from clip4vla.config.tracking import Tracking
from clip4vla.config.yaml import COMMAND_LINE, Document, KeyPath, command_line, merge, read_yaml

S = TypeVar("S", bound=Section)
DATASET_NAME = r"[a-z0-9_]+"


class Weights(Section):
    """Weights that rows may start from: a file, or a tag of open_clip (docs/weights.md)."""

    path: Path | None = runtime(
        None,
        description="a file: OpenAI's CLIP, or a model.safetensors of ours; for a text encoder the "
        "folder of BERT",
    )
    open_clip: str | None = runtime(
        None,
        pattern=r"^[^:/\s]+:[^:/\s]+$",
        description="instead of path, ARCHITECTURE:TAG of open_clip, such as "
        "ViT-B-32:laion2b_s34b_b79k; downloaded to its cache on first use",
    )
    sha256: str | None = runtime(
        None, pattern=r"^[0-9a-f]{64}$", description="of the file; a run checks it before it starts"
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.path is None) == (self.open_clip is None):
            raise ValueError(
                "needs either `path` or `open_clip`. Fix: set one of them, and null for the other"
            )
        return self


class Config(Section):
    """The file that a user edits: data, weights, and the tables that `all` builds."""

    preset: Preset = Field("ours", description="reading of the paper: see docs/deviations.md")
    experiments: Path = runtime(Path("experiments"), description="folder of the table files")
    paper: Path = runtime(Path("experiments/paper.tsv"), description="every published number")
    targets: list[Name] = runtime(min_length=1, description="tables that `all` builds")
    frozen_cache: bool = runtime(
        True,
        description="cache frozen CLIP's vectors of each clip beside its shards; equal results up "
        "to rounding",
    )
    activation_checkpointing: bool = runtime(
        False,
        description="training stores only the inputs of blocks and recomputes the rest: less "
        "memory, about a third more time, equal results (docs/training.md)",
    )
    compile: Literal[True, False, "auto"] = runtime(
        "auto",
        description="compile the blocks in training (torch.compile), equal up to rounding; auto: "
        "on a GPU, where a compiler is there (docs/training.md)",
    )
    check_reads: Literal["sampled", "all"] = runtime(
        "sampled",
        description="clips whose sha256 training verifies when it reads them: one in 32, or all; "
        "evaluation and substitution always verify all (docs/formats.md)",
    )
    tracking: Tracking = runtime(Tracking())
    datasets: dict[str, Dataset] = Field({}, description="by name; see below")
    weights: dict[str, Weights] = Field({}, description="by name; see below")
    recipe: dict[str, Any] = Field({}, description="lowest layer of every row; see below")
    bases: dict[str, dict[str, Any]] = Field(
        {}, description="by name: parts of a recipe, for tables with `extends: NAME`; see below"
    )

    _once = field_validator("targets")(each_once)

    @field_validator("datasets")
    @classmethod
    def _are_names_of_folders(cls, datasets: dict[str, Dataset]) -> dict[str, Dataset]:
        """Refuse names that cannot be part of targets: `data/<name>-<version>-<hash>/`."""
        for name in datasets:
            if not re.fullmatch(DATASET_NAME, name):
                raise ValueError(
                    f"{name!r} is not a valid dataset name. Fix: use only lower-case letters, "
                    "digits and _"
                )
        return datasets


def load_config(
    files: list[Path], overrides: dict[str, Any] | None = None
) -> tuple[Config, list[Document]]:
    """Merge the files (later ones win) and the overrides of the command line; validate them.

    Paths in a file are relative to that file; paths in `overrides` to the working directory.
    Raises UserError: one line with file, line and key.
    """
    documents = [read_yaml(path) for path in files]
    value: dict[str, Any] = {}
    for document in documents:
        value = merge(value, _with_paths(document.value, document.path.resolve().parent))
    if overrides:
        documents.append(command_line(overrides))
        value = merge(value, _with_paths(documents[-1].value, Path.cwd()))
    return validated(Config, value, documents), documents


def validated(model: type[S], value: object, documents: list[Document], at: KeyPath = ()) -> S:
    """Return `model.model_validate(value)`; UserError: a line per error with file, line and key."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = [_one_line(model, value, item, documents, at) for item in error.errors()]
        raise UserError(*lines) from None


def problems_in_part(
    model: type[Section], value: object, documents: list[Document], at: KeyPath
) -> list[str]:
    """Return a line per error in a part of a section, to which other layers add keys."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        wrong = [item for item in error.errors() if item["type"] not in ("missing", "value_error")]
        return [_one_line(model, value, item, documents, at) for item in wrong]
    return []


def _one_line(
    model: type[Section],
    value: object,
    error: ErrorDetails,
    documents: list[Document],
    at: KeyPath,
) -> str:
    key = (*at, *error["loc"], *([error["ctx"]["key"]] if error["type"] == AT_KEY else []))
    named = ".".join(str(part) for part in key)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        fields = section_fields(model, error["loc"][:-1], value)
        message = "unknown key" + did_you_mean(str(error["loc"][-1]), fields)
    elif error["type"] == "missing":
        message = "missing. Fix: set it"
    elif error["type"] not in ("value_error", AT_KEY):
        message = WORDS.get(error["type"], message)
        found = error["input"]
        shown = repr(found) if isinstance(found, str) else json.dumps(found, default=str)
        fix = "give a value, or remove the key" if found is None else _fix(error["type"])
        message += f" (found {shown}). Fix: {fix}"
    place = place_in(documents, key)
    if place is None:
        is_absent = documents and error["type"] == "missing"
        place = str(documents[0].path) if is_absent else COMMAND_LINE
    return ": ".join(part for part in (place, named, message) if part)


MAPPINGS = ("model_type", "dict_type")
# Types of errors -> their message, where pydantic's names a type of Python.
WORDS = dict.fromkeys(MAPPINGS, "must be a mapping of keys to values")
WORDS |= {"path_type": "must be a path", "string_type": "must be text"}


def _fix(kind: str) -> str:
    """Return the remedy for a value that pydantic refuses, by the type of its error."""
    if kind in MAPPINGS:
        return "write its keys below it, or remove it"
    return "choose one of these" if kind == "literal_error" else "correct the value"


def place_in(documents: list[Document], key: KeyPath) -> str | None:
    """Return where a key of merged documents was set: the last that has most of its path."""
    holder = max(reversed(documents), key=lambda document: document.holds(key), default=None)
    return holder.place(key) if holder else None


def section_fields(model: type[Section], loc: KeyPath, value: object) -> list[str]:
    """Return the names of the fields of the section at `loc` of a value, which names its family."""
    family = family_named(value)
    for part in loc:
        value = value.get(part) if isinstance(value, dict) else None
        if part in model.model_fields:
            model = section_in(model.model_fields[part].annotation) or model
        if model is FamilyModel:
            model = family_settings(family_in(value)).model
        if model is FamilyObjective:
            model = family_settings(family).objective
    return [field.alias or name for name, field in model.model_fields.items()]


def section_in(annotation: Any) -> type[Section] | None:
    """Return the section that a type annotation contains, at any depth; None without one."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := section_in(inner):
            return found
    return None


def _with_paths(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the paths of a config file absolute; they are relative to that file."""
    value = dict(value)
    for key in ("experiments", "paper"):
        if isinstance(value.get(key), str):
            value[key] = str(folder / value[key])
    for section, keys in (
        ("datasets", ("annotations", "media", "cookies")),
        ("weights", ("path",)),
    ):
        entries = value.get(section)
        if not isinstance(entries, dict):
            continue
        value[section] = {
            name: {
                key: str(folder / item) if key in keys and isinstance(item, str) else item
                for key, item in entry.items()
            }
            if isinstance(entry, dict)
            else entry
            for name, entry in entries.items()
        }
    return value

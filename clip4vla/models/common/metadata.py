"""The settings and the origin in a weights file's metadata (docs/formats.md)."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clip4vla.common.errors import UserError
from clip4vla.config.base import AT_KEY
from clip4vla.config.settings import Settings

FORMAT = 1  # of the metadata; incremented when an older reader would misinterpret it


class _Stated(BaseModel):
    model_config = ConfigDict(strict=True)


class ImportedFile(_Stated):
    """The file that weights were imported from."""

    file: str
    kind: str
    sha256: str


class SmallBatch(_Stated):
    """Sizes of a stage's batches: asked for in the config, and used."""

    asked: int
    used: int


class Origin(_Stated):
    """What metadata state beside the settings, as far as it is read. Other keys are left alone."""

    run_key: str | None = None
    stage: str | None = None
    selection: str | None = None
    selected_epoch: int | None = None
    val_metric: str | None = None
    val_value: float | None = None
    selected_on: str | None = None
    ema: float | None = None
    average_epochs: list[int] | None = Field(None, min_length=2, max_length=2)
    small_batches: dict[str, SmallBatch] | None = None
    half_weights: list[str] = []
    start_type_token: str | None = None
    leaks_dropped: int | None = None
    manifests: dict[str, str] | None = None
    imported: ImportedFile | None = None


def check_origin(path: str | Path, metadata: dict[str, Any]) -> None:
    """Raise UserError for an origin of the wrong form in a file's metadata."""
    try:
        Origin.model_validate(metadata)
    except ValidationError as error:
        raise _invalid(path, error) from None


def read_settings(path: str | Path, metadata: dict[str, Any]) -> Settings:
    """Return the settings in a file's metadata. UserError, with the fix, if it has none.

    UserError for an origin of the wrong form, too.
    """
    if "format" not in metadata:
        raise UserError(
            f"{path}: written by an older version, which did not store the settings. Fix: run "
            f"`clip4vla checkpoint import {path} OUT.safetensors`"
        )
    if metadata["format"] != FORMAT:
        raise UserError(
            f"{path}: its metadata has format {metadata['format']}, but this version reads "
            f"{FORMAT}. Fix: install the version of clip4vla that wrote it"
        )
    check_origin(path, metadata)
    try:
        return Settings.model_validate(
            {name: metadata[name] for name in Settings.model_fields if name in metadata}
        )
    except ValidationError as error:
        raise _invalid(path, error) from None


def _invalid(path: str | Path, error: ValidationError) -> UserError:
    """Return the error for metadata that no version of this code reads."""
    first = error.errors()[0]
    inner = [first["ctx"]["key"]] if first["type"] == AT_KEY else []
    key = ".".join(map(str, [*first["loc"], *inner])) or "settings"
    # Without the fix in the message, which is for a config.
    problem = first["msg"].removeprefix("Value error, ").partition(" Fix: ")[0].rstrip(".?")
    return UserError(
        f"{path}: invalid {key} in its metadata ({problem}). Fix: install the version of "
        "clip4vla that wrote it"
    )

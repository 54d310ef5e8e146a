"""The settings in a weights file's metadata (docs/formats.md)."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clip4vla.common.errors import UserError
from clip4vla.config.base import AT_KEY
from clip4vla.config.settings import Settings

FORMAT = 1  # of the metadata; incremented when an older reader would misinterpret it


def read_settings(path: str | Path, metadata: dict[str, Any]) -> Settings:
    """Return the settings in a file's metadata. UserError, with the fix, if it has none."""
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
    try:
        return Settings.model_validate(
            {name: metadata[name] for name in Settings.model_fields if name in metadata}
        )
    except ValidationError as error:
        first = error.errors()[0]
        inner = [first["ctx"]["key"]] if first["type"] == AT_KEY else []
        key = ".".join(map(str, [*first["loc"], *inner])) or "settings"
        # Without the fix in the message, which is for a config.
        problem = first["msg"].removeprefix("Value error, ").partition(" Fix: ")[0].rstrip(".?")
        raise UserError(
            f"{path}: invalid {key} in its metadata ({problem}). Fix: install the version of "
            "clip4vla that wrote it"
        ) from None

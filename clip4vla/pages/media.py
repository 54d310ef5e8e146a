"""Where a page plays its clips from: files of this machine, or previews inside of the page."""

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from clip4vla.common.parquet import read_columns
from clip4vla.config.layout import remake

Addresses = Callable[[str], str]  # clip id -> address of its film or sound; "": it cannot be played


def nowhere(clip_id: str) -> str:
    """Return "": no clip can be played."""
    return ""


def files_of(ledger: Path) -> dict[str, Path]:
    """Return the file of each clip of a ledger, by id; none without a ledger."""
    if not ledger.is_file():
        return {}
    table = read_columns(ledger, remake(ledger), ["clip_id", "path"])
    pairs = zip(table["clip_id"].to_pylist(), table["path"].to_pylist(), strict=True)
    return {clip_id: Path(path) for clip_id, path in pairs if path}


def beside(files: Mapping[str, Path], folder: Path) -> Addresses:
    """Return addresses of the files that are there, relative to the folder of the page."""

    def address(clip_id: str) -> str:
        path = files.get(clip_id)
        return quote(os.path.relpath(path, folder)) if path and path.is_file() else ""

    return address


def inside(previews: Mapping[str, Path]) -> Addresses:
    """Return the previews themselves as addresses, so that the page needs no other file."""

    def address(clip_id: str) -> str:
        path = previews.get(clip_id)
        if path is None:
            return ""
        return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"

    return address

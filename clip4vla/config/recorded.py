"""The config of the last run in an output folder, so that commands typed there find it."""

from pathlib import Path
from typing import Any, NamedTuple

from clip4vla.common.errors import UserError
from clip4vla.common.files import canonical_json, read_json, write_json

RECORD = ".clip4vla.json"


class Recorded(NamedTuple):
    """Config files, the base first, and the values above them."""

    files: list[Path]
    values: dict[str, Any]


def record_config(files: list[Path], values: dict[str, Any], folder: Path) -> None:
    """Write the config of a run into its output folder. Files in it are named relative to it."""
    folder = folder.resolve()
    shown = [path.resolve() for path in files]
    names = [
        str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in shown
    ]
    write_json(folder / RECORD, {"config_files": names, "values": values})


def recorded_config(folder: Path) -> Recorded | None:
    """Read the config of the last run in a folder; None without one.

    UserError for a damaged record, and for a config file that is no longer there.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        files = [folder / str(name) for name in record["config_files"]]
        values = dict(record["values"])
        canonical_json(values)  # no NaN, which no config can hold
        if not files:
            raise ValueError("config_files is empty")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not a record of a config ({error}). Fix: delete it, and pass the config "
            "with -c"
        ) from None
    if gone := [file for file in files if not file.is_file()]:
        raise UserError(
            f"{path}: the config of the last run here, {gone[0]}, does not exist. Fix: pass the "
            "config with -c"
        )
    return Recorded(files, values)

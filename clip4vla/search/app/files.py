"""The file of a window: only as it was indexed, and only below the folder of the index."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from clip4vla.common.errors import UserError
from clip4vla.media.decode import DecodeError
from clip4vla.media.isolated import Crashed, Isolated
from clip4vla.search.changes import Stamp
from clip4vla.search.media import one_line

AGAIN = "Fix: run `clip4vla index` again"
SECONDS = 60.0  # for decoding one window or one upload

T = TypeVar("T")


class Unavailable(UserError):
    """The error for a request that another status of HTTP than 400 describes."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def checked_file(folder: Path, name: str, stamp: Stamp) -> Path:
    """Return the real path of an indexed file, which must be what it was when it was indexed.

    name: of the file below the folder, out of which neither a symbolic link nor an index made by
    somebody else leads. Raises UserError for a file that is missing, changed, no regular file, or
    elsewhere.
    """
    path = folder / name
    try:
        real = path.resolve(strict=True)
        about = real.stat()
    except (OSError, RuntimeError, ValueError):  # also loops of links, and a NUL in a name
        raise Unavailable(f"{path.name}: the file is no longer there. {AGAIN}", code=410) from None
    if not real.is_relative_to(folder.resolve()):
        raise UserError(f"{path.name}: the file lies outside of the indexed folder. {AGAIN}")
    if not stat.S_ISREG(about.st_mode) or not os.access(real, os.R_OK):
        raise UserError(f"{path.name}: the file cannot be read. Fix: check its permissions")
    if Stamp(about.st_size, about.st_mtime_ns) != stamp:
        raise Unavailable(
            f"{path.name}: the file has changed since it was indexed. {AGAIN}", code=410
        )
    return real


def isolated(function: Callable[[Path], T], path: Path, name: str, seconds: float = SECONDS) -> T:
    """Return `function(path)`, which decodes a file, called in a process of its own.

    Raises UserError, with `name` as the place, if the file cannot be decoded, or if its decoder
    crashes, takes too much memory or more than `seconds`.
    """
    with Isolated(function) as child:
        try:
            return child(path, seconds)
        except (DecodeError, Crashed) as error:
            problem = one_line(error, path)
            raise UserError(f"{name}: cannot be decoded ({problem}). Fix: convert it") from None

"""Check seconds and YouTube ids of annotation files."""

import contextlib
import math
import re

from clip4vla.datasets.clip import Where, shown
from clip4vla.datasets.collect import Collector

_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")


def seconds(into: Collector, where: Where, name: str, value: object) -> float:
    """Return a finite number of seconds from a cell or a JSON value; UserError for any other."""
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
    if not math.isfinite(number):
        into.fail(where, f"invalid {name} {shown(value)}", "use seconds")
    return number


def youtube_id(into: Collector, where: Where, value: object) -> str:
    """Return a YouTube id. Raises UserError for any other value."""
    if not isinstance(value, str) or not _YOUTUBE_ID.fullmatch(value):
        into.fail(where, f"invalid YouTube id {shown(value)}: must be 11 letters, digits, _ and -")
    return value

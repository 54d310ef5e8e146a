"""Seconds and YouTube ids as annotation files write them."""

import contextlib
import math
import re

from clip4vla.datasets.clip import Where, shown
from clip4vla.datasets.collect import Collector

_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")


def seconds(into: Collector, where: Where, what: str, value: object) -> float:
    """A finite number of seconds from a cell or a JSON value; UserError if it is none."""
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
    if not math.isfinite(number):
        into.fail(where, f"{what} is {shown(value)}: use seconds")
    return number


def youtube_id(into: Collector, where: Where, value: object) -> str:
    """An 11-character YouTube id; UserError if it is none."""
    if not isinstance(value, str) or not _YOUTUBE_ID.fullmatch(value):
        into.fail(where, f"{shown(value)} is no YouTube id (11 letters, digits, _ and -)")
    return value

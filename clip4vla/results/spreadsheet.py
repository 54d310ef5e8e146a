"""CSV files that people open in a spreadsheet."""

from typing import Any

import pandas as pd

FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # a text that begins so is run as a formula


def spreadsheet_csv(frame: pd.DataFrame, separator: str = ",", ids: tuple[str, ...] = ()) -> str:
    """Return a frame as CSV, with an apostrophe before each text that would be run as a formula.

    Numbers are unchanged, negative ones too. So are the columns `ids`, whose texts are names that
    programs read (a YouTube id may begin with a minus).
    """
    texts = frame.select_dtypes(["object", "string"]).columns.difference(ids)
    safe = frame.assign(**{name: frame[name].map(_no_formula) for name in texts})
    return safe.to_csv(sep=separator, index=False, lineterminator="\n")


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value

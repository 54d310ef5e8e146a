"""Read coverage.csv, and refuse a truncated or damaged one."""

from pathlib import Path

import pandas as pd

from clip4vla.common.errors import UserError
from clip4vla.common.parquet import read_columns, read_text_table
from clip4vla.config.layout import remake

COUNTS = ["expected", "planned", "fetched", "with_video", "with_sound", "silent"]


def read_coverage(path: str | Path) -> pd.DataFrame:
    """Return a coverage.csv with its counts as numbers; `expected` may be missing.

    Raises UserError when a column is missing, a count is not a number, or a split of the
    splits.parquet beside it has no line, which reveals a file truncated between two lines.
    """
    path = Path(path)
    fix = remake(path)
    table = read_text_table(path, fix, ["split", *COUNTS])
    for name in table.columns.difference(["split"]):
        numbers = pd.to_numeric(table[name].replace("", None), errors="coerce")
        wrong = numbers.isna() & ((table[name] != "") | (name in COUNTS[1:]))
        if not wrong.any():
            table[name] = numbers
        elif name in COUNTS:
            where = f"{path}: line {2 + int(wrong.to_numpy().argmax())}"
            raise UserError(f"{where}: {name} is not a number. Fix: {fix}")
    lists = path.with_name("splits.parquet")
    if lists.is_file():
        splits = read_columns(lists, remake(lists), ["split"])["split"].unique().to_pylist()
        if lacking := sorted(set(splits) - set(table.split)):
            raise UserError(f"{path}: truncated: no line of split {lacking[0]}. Fix: {fix}")
    return table

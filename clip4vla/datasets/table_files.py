"""Read rows of a user's own table: csv, tsv, jsonl or parquet, by the end of the file's name."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.datasets.clip import Where, shown
from clip4vla.datasets.disguised import AS_JSON, PUBLISHED, REWRITES, UNTOUCHED, disguise_of
from clip4vla.datasets.official import check_readable, not_text, records, separated

CORRECT = "correct the row"
_QUOTE = (
    'put text with separators, line breaks or quotation marks in "...", and double each " in it'
)
_SAVE = "save the table as csv, tsv, jsonl or parquet, with that ending"
_OWN_FIX = dict.fromkeys((UNTOUCHED, PUBLISHED, AS_JSON), _SAVE)  # nobody publishes this table
_ERRORS = {"error": REWRITES["error"]}  # an id may look like a date, but no text like #NAME?
Row = tuple[Where, dict[str, Any]]


def table_rows(
    name: str, path: Path, columns: tuple[str, ...], required: tuple[str, ...]
) -> Iterator[Row]:
    """Yield the rows of a table of dataset `name`, as (where, {column: value}).

    Values are texts in csv and tsv, JSON values in jsonl, Python values in parquet; a missing one
    is "" or None. Raises UserError for a file that is not such a table, for missing, unknown and
    repeated columns, and for invalid rows.
    """
    read = _READ.get(path.suffix.lower())
    if path.is_dir():
        raise UserError(f"{name}: {path}: a folder. Fix: name the table, such as {path}/clips.csv")
    if read is None:
        raise UserError(f"{name}: {path}: unknown ending {path.suffix!r}. Fix: {_SAVE}")
    check_readable(name, path, "your table of clips")
    kind, fix = disguise_of(path) or ("", "")
    if kind and not (read is _parquet and kind == "a Parquet table"):
        raise UserError(f"{name}: {path} is {kind}. Fix: {_OWN_FIX.get(fix, fix)}")
    filled = False
    for where, row in read(name, path, _Header(name, columns, required)):
        filled = True
        yield where, row
    if not filled:
        raise UserError(f"{name}: {path}: no row. Fix: write a row for each clip")


class _Header:
    """The columns that a table may have, and those that it must have."""

    def __init__(self, name: str, columns: tuple[str, ...], required: tuple[str, ...]):
        self.name, self.columns, self.required = name, columns, required

    def check(self, where: Where | Path, found: list[str]) -> None:
        """Raise UserError for missing, unknown and repeated columns."""
        place = f"{self.name}: {where}"
        if missing := [column for column in self.required if column not in found]:
            raise UserError(
                f"{place}: column {', '.join(missing)} is missing; found "
                f"{shown(', '.join(found))}{separated(found, _SAVE) or '. Fix: add or rename it'}"
            )
        if len(set(found)) != len(found):
            names = shown(", ".join(found))
            raise UserError(f"{place}: repeated column in {names}. Fix: name each once")
        for column in found:
            self.check_known(where, column)

    def check_known(self, where: Where | Path, column: str) -> None:
        """Raise UserError for an unknown column."""
        if column in ("", "Unnamed: 0") or column.startswith("__index_level_"):
            raise UserError(
                f"{self.name}: {where}: a column without a name, as pandas writes its index. Fix: "
                "write the table without it (index=False), or remove the empty column"
            )
        if column not in self.columns:
            hint = did_you_mean(column.strip().lower(), self.columns) + ", or remove it"
            raise UserError(f"{self.name}: {where}: unknown column {shown(column)}{hint}")


def _separated_by(delimiter: str) -> Callable[[str, Path, _Header], Iterator[Row]]:
    def read(name: str, path: Path, header: _Header) -> Iterator[Row]:
        found: list[str] | None = None
        for line, cells in records(name, path, delimiter, _QUOTE, _ERRORS):
            where = Where(path, "line", line)
            if found is None:
                found = [cell.strip() for cell in cells]
                header.check(where, found)
            elif len(cells) != len(found):
                raise UserError(
                    f"{name}: {where}: {len(cells)} columns where the header has {len(found)}. "
                    f"Fix: {_QUOTE}"
                )
            else:
                yield where, dict(zip(found, cells, strict=True))

    return read


def _jsonl(name: str, path: Path, header: _Header) -> Iterator[Row]:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                where = Where(path, "line", number)
                try:
                    pairs = json.loads(line, object_pairs_hook=_Members)
                except (ValueError, RecursionError) as error:
                    raise UserError(
                        f"{name}: {where}: invalid JSON: {shown(str(error))}. Fix: write one "
                        "object {...} a line"
                    ) from None
                if not isinstance(pairs, _Members):
                    raise UserError(
                        f"{name}: {where}: not an object. Fix: write one object {{...}} a line"
                    )
                header.check(where, [key for key, _ in pairs])
                yield where, dict(pairs)
    except UnicodeDecodeError:
        raise not_text(name, path) from None


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, in which a key may be repeated."""


def _parquet(name: str, path: Path, header: _Header) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            header.check(path, file.schema_arrow.names)
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield Where(path, "row", number), {k: _or_none(v) for k, v in row.items()}
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{name}: {path}: corrupt or truncated parquet file ({shown(str(error))}). Fix: write "
            "it again"
        ) from None


def _or_none(value: Any) -> Any:
    """Return a value of a cell; None for NaN, by which data frames mean a missing one."""
    return None if isinstance(value, float) and math.isnan(value) else value


_READ = {
    ".csv": _separated_by(","),
    ".tsv": _separated_by("\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}

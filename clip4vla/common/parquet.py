"""Read tables; a missing, corrupt or incomplete table is a UserError with the fix."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip4vla.common.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def read_frame(
    path: str | Path, fix: str, columns: Iterable[str] = (), older: Mapping[str, str] | None = None
) -> "pd.DataFrame":
    """Return a parquet table as a pandas frame.

    UserError, ending in `fix`, when the file is missing, corrupt or lacks one of `columns`; `older`
    names what took a column's place in older versions. An OSError of the disk itself is raised
    unchanged.
    """
    import pandas as pd

    taken = {other: name for name, other in (older or {}).items()}
    return _checked(
        path,
        fix,
        columns,
        pd.read_parquet,
        lambda table: {*table.columns, *(taken.get(name, name) for name in table.columns)},
    )


def read_columns(path: str | Path, fix: str, columns: list[str]) -> "pa.Table":
    """Return these columns of a parquet table; errors as for `read_frame`."""
    import pyarrow.parquet as parquet

    _checked(path, fix, columns, parquet.read_schema, lambda schema: schema.names)
    return _checked(path, fix, (), lambda path: parquet.read_table(path, columns=columns))


def read_text_table(
    path: str | Path, fix: str, columns: Iterable[str], separator: str = ","
) -> "pd.DataFrame":
    """Return a csv or tsv file as a pandas frame of texts; errors as for `read_frame`.

    A last line without a line break means a truncated file, because our writers always end it.
    """
    import pandas as pd

    def read(path: Path) -> "pd.DataFrame":
        text = path.read_bytes()
        if not text.endswith(b"\n") or b"\0" in text:
            raise ValueError("cut off")
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)

    return _checked(path, fix, columns, read)


def _checked(
    path: str | Path,
    fix: str,
    columns: Iterable[str],
    read: Callable[[Path], Any],
    names: Callable[[Any], Iterable[str]] = lambda table: table.columns,
) -> Any:
    """Read a file with `read`, and check that it is complete and has the columns."""
    path = Path(path)
    if not path.is_file():
        problem = "not a file" if path.exists() else "missing"
        raise UserError(f"{path}: {problem}. Fix: {fix}")
    try:
        table = read(path)
    except (ValueError, OSError, EOFError, LookupError, TypeError, RuntimeError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's failure, not the file's
            raise
        raise UserError(f"{path}: corrupt or truncated table. Fix: {fix}") from None
    if lacking := [name for name in columns if name not in names(table)]:
        raise UserError(f"{path}: no column {', '.join(lacking)}. Fix: {fix}")
    return table

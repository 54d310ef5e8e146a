"""Vector indexes of large tables: the nearest of millions without reading all of them.

Up to `EXACT_ROWS` windows every query is compared with every window. Above, LanceDB keeps each
column of vectors in cells (IVF) of short codes (PQ): a query reads the cells that are nearest to
it, and the candidates that come of it are compared exactly, by the vectors themselves.
"""

from math import isqrt
from typing import Any

from lancedb.index import IvfPq
from lancedb.table import Table

from clip4vla.common.log import log
from clip4vla.search.comparing import Probe
from clip4vla.search.store import has_several, is_vectors

EXACT_ROWS = 100_000  # eleven days of video, in windows of ten seconds; about a second
CANDIDATES = 50  # of each column, for a window that is asked for
CELLS_READ = 0.05  # share of the cells that a query reads
CODE = 8  # numbers of a vector that share a byte of its code


def vector_columns(table: Table) -> list[str]:
    """Return the names of the columns of vectors."""
    return [field.name for field in table.schema if is_vectors(field.type)]


def indexed_columns(table: Table) -> set[str]:
    """Return the columns of vectors that have a vector index."""
    named = {column for found in table.list_indices() for column in found.columns}
    return named & set(vector_columns(table))


def index_vectors(table: Table) -> None:
    """Make the vector indexes of a table that has grown beyond `EXACT_ROWS`."""
    rows = table.count_rows()
    if rows < EXACT_ROWS:
        return
    for column in sorted(set(vector_columns(table)) - indexed_columns(table)):
        log.info(f"making the vector index of {column}: {rows} windows")
        table.create_index(column, config=_config(table, column, rows))


def _config(table: Table, column: str, rows: int) -> IvfPq:
    kind = table.schema.field(column).type
    several = has_several(kind)
    width = (kind.value_type if several else kind).list_size
    return IvfPq(
        distance_type="cosine" if several else "dot",  # of unit vectors they rank alike
        num_partitions=max(1, isqrt(rows)),
        num_sub_vectors=width // CODE if width % CODE == 0 else None,
    )


def candidates(table: Table, probes: list[Probe], wanted: int) -> list[int]:
    """Return LanceDB's own numbers of rows that are near to any of the probes."""
    found: set[int] = set()
    for column, vector in probes:
        several = has_several(table.schema.field(column).type)
        query: Any = table.search(vector.float().cpu().numpy(), column)
        near = (
            query.distance_type("cosine" if several else "dot")
            .nprobes(max(20, round(CELLS_READ * isqrt(table.count_rows()))))
            .limit(wanted * CANDIDATES)
            .select(["row", "_distance"])
            .with_row_id(True)
            .to_arrow()
        )
        found |= set(near["_rowid"].to_pylist())
    return sorted(found)

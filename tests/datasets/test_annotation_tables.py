"""Tables of annotations in parts: the same rows and bytes as in one, in bounded memory."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from clip4vla.common.files import write_parts, write_table
from clip4vla.datasets import tables
from clip4vla.datasets.clip import Where
from clip4vla.datasets.tables import ITEM_SCHEMA, Columns

PART = 100


def items(count):
    chance = random.Random(count)
    made = []
    for number in range(count):
        captions = tuple(f"caption {number} {n}" * 9 for n in range(chance.randint(1, 3)))
        labels = tuple(f"label {n}" for n in range(chance.randint(0, 4)))
        made.append((f"split{number % 3}", f"clip{number:05}", captions, labels))
    chance.shuffle(made)
    return made


def columns_of(rows):
    columns = Columns(ITEM_SCHEMA)
    for number, row in enumerate(rows):
        columns.add(row, Where(Path("list.csv"), "line", number))
    return columns


@pytest.mark.parametrize("count", [0, 1, PART, 7 * PART + 31])
def test_rows_are_sorted_across_blocks_and_parts(count, monkeypatch, tmp_path):
    rows = items(count)
    found, order = columns_of(rows).sorted(["split", "clip_id"])
    whole = found.table()
    assert [tuple(row.values()) for row in whole.to_pylist()] == [
        (split, clip, list(captions), list(labels))
        for split, clip, captions, labels in sorted(rows)
    ]
    assert [rows[row] for row in order] == sorted(rows)
    monkeypatch.setattr(tables, "BLOCK", 64)
    monkeypatch.setattr(tables, "PART", PART)
    found, again = columns_of(rows).sorted(["split", "clip_id"])
    assert (again == order).all() and found.table().equals(whole)
    assert {len(part) for part in list(found.parts())[:-1]} <= {PART}
    assert found.table(["clip_id"]).equals(whole.select(["clip_id"]))
    with parquet.ParquetWriter(tmp_path / "whole", ITEM_SCHEMA, compression="zstd") as writer:
        writer.write_table(whole, row_group_size=PART)
    write_parts(tmp_path / "parts", found.parts())
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_part_is_a_row_group_of_a_whole_table(tmp_path):
    numbers = pa.table({"number": range(tables.PART + 1)})
    write_table(tmp_path / "whole", numbers)
    write_parts(tmp_path / "parts", [numbers.slice(0, tables.PART), numbers.slice(tables.PART)])
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert parquet.read_metadata(tmp_path / "parts").num_row_groups == 2


def test_one_part_at_a_time_is_in_memory_as_a_table(monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 64)
    monkeypatch.setattr(tables, "PART", PART)
    before = pa.total_allocated_bytes()
    columns = columns_of(items(20 * PART))
    found, _ = columns.sorted(["split", "clip_id"])
    assert pa.total_allocated_bytes() == before
    for part in found.parts():
        assert pa.total_allocated_bytes() - before < 2 * part.nbytes

"""The journal of a shard, read by others while its owner writes."""

import pytest

from clip4vla.common.errors import UserError
from clip4vla.common.files import canonical_json
from clip4vla.media.journal import Journal


def record(clip_id):
    return {
        "clip_id": clip_id, "request": "r", "fetch": "gone", "detail": "", "again": 0,
        "file": "", "bytes": 0, "sha256": "", "tool": "t",
    }  # fmt: skip


def test_a_reader_in_the_middle_of_a_record_changes_nothing(tmp_path):
    Journal(tmp_path).add(record("a"))
    line = (canonical_json(record("b")) + "\n").encode()
    with open(tmp_path / "journal.jsonl", "ab", buffering=0) as stream:
        stream.write(line[:40])
        assert set(Journal(tmp_path).attempts()) == {"a"}
        stream.write(line[40:])
    assert set(Journal(tmp_path).attempts()) == {"a", "b"}


def test_a_torn_line_is_cut_off_before_the_next_record(tmp_path):
    Journal(tmp_path).add(record("a"))
    with open(tmp_path / "journal.jsonl", "a") as stream:
        stream.write(canonical_json(record("b"))[:40])
    owner = Journal(tmp_path)
    owner.add(record("c"))
    owner.add(record("d"))
    assert set(Journal(tmp_path).attempts()) == {"a", "c", "d"}
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("broken", ["{", "[]", "{}", canonical_json(record("x") | {"fetch": "?"})])
def test_a_broken_line_is_named(tmp_path, broken):
    Journal(tmp_path).add(record("a"))
    with open(tmp_path / "journal.jsonl", "a") as stream:
        stream.write(broken + "\n")
    with pytest.raises(
        UserError, match=r"journal\.jsonl, line 2: not a record .* delete this line"
    ):
        Journal(tmp_path)

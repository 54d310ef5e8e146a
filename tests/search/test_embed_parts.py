"""Tables of vectors in parts: what is there is kept, what is damaged is made again."""

import errno

import pytest

from clip4vla.cli.main import one_line_errors
from clip4vla.common.errors import UserError
from clip4vla.search.table import check_format, embed_in_parts, lock_parts, write_table


class Parts:
    """Five inputs, two a part; `asked` are those that were embedded since it was last cleared."""

    def __init__(self, out):
        self.out, self.folder, self.asked = out, out.with_name(f"{out.name}.parts"), []

    def embed(self, inputs):
        self.asked += inputs
        empty = {"start": 0.0, "end": 1.0, "status": "ok", "detail": ""}
        return [{"input": str(x), "vector": [float(x), 0.0], **empty} for x in inputs]

    def table(self, identity="a"):
        self.asked.clear()
        with lock_parts(self.out):
            return embed_in_parts(
                out=self.out,
                inputs=range(5),
                size=2,
                identity={"of": identity},
                embed=self.embed,
                track=lambda items, _: iter(items),
            )


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path / "k.parquet")


@pytest.mark.parametrize("size", [0, 200, -9])
def test_a_damaged_part_is_made_again(parts, size):
    whole = parts.table()
    assert parts.asked == [0, 1, 2, 3, 4]
    assert parts.table() == whole and parts.asked == []
    part = parts.folder / "000000002.parquet"
    part.write_bytes(part.read_bytes()[:size])
    assert parts.table() == whole and parts.asked == [2, 3]
    assert parts.table() == whole and parts.asked == []


@pytest.mark.parametrize("content", [b"", b'{"sha', b"\xff", b"[]"])
def test_a_damaged_key_starts_anew(parts, content):
    whole = parts.table()
    (parts.folder / "key.json").write_bytes(content)
    assert parts.table() == whole and len(parts.asked) == 5


def test_a_disk_that_fails_is_no_damage(parts, monkeypatch):
    parts.table()

    def failing(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("clip4vla.search.table.pq.read_table", failing)
    with pytest.raises(OSError, match="Input/output error"):
        parts.table()


def test_a_full_disk_is_named_by_the_output(parts, monkeypatch, capsys):
    table = parts.table()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clip4vla.search.table.pq.write_table", full)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        write_table(parts.out, table, {})
    assert ended.value.code == 78
    assert capsys.readouterr().err.startswith(f"clip4vla: {parts.out}: the disk is full. Fix: free")


def test_an_output_is_no_folder(tmp_path):
    (tmp_path / "here.npz").mkdir()
    with pytest.raises(UserError, match=r"here\.npz: is a folder. Fix: name a file"):
        check_format(tmp_path / "here.npz")

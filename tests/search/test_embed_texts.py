"""What `clip4vla embed text` reads as sentences, and what it refuses."""

import io
import re

import pytest

from clip4vla.common.errors import UserError
from clip4vla.stages.embed import read_texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"caption\na,b\nc\n", "line 2 has 2 fields, the header 1"),
        ("r.csv", b'caption,id\n"two\nlines",1\nshort\n', "line 4 has 1 fields, the header 2"),
        ("r.tsv", b"id\ttext\n1\ta\tb\n", "line 2 has 3 fields, the header 2"),
        ("r.csv", b"text,text\na,b\n", "its header names text twice"),
        ("r.csv", b'text\nfine\n"open\n', "line 3 is no row of a table (unexpected end of data)"),
        ("r.csv", b"", "is empty"),
        ("r.csv", b"text\n\xff\n", "is no text in UTF-8"),
        ("r.txt", b"a\n\xff\n", "is no text in UTF-8"),
    ],
)
def test_what_is_no_table_of_texts_is_refused_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {re.escape(message)}"):
        read_texts(str(tmp_path / name), None)


def test_a_table_may_have_what_tables_have(tmp_path):
    """A byte order mark, line ends of Windows, empty lines, columns without a name, line breaks."""
    path = tmp_path / "r.csv"
    path.write_bytes('\ufefftext,,\r\n"a, ""b""",,\r\n\r\n"c\nd",1,2\r\nNA,,\r\n'.encode())
    assert read_texts(str(path), None) == ['a, "b"', "c\nd", "NA"]


def test_a_line_of_text_ends_at_its_line_end_alone(tmp_path, monkeypatch):
    content = "a\u2028b\x0cc\x85d\r\n\r\nlast".encode()
    sentences = ["a\u2028b\x0cc\x85d", "", "last"]
    path = tmp_path / "r.txt"
    for end, more in ((b"", []), (b"\n", []), (b"\r\n", []), (b"\n\n", [""])):
        path.write_bytes(content + end)
        assert read_texts(str(path), None) == sentences + more
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content + end)))
        assert read_texts("-", None) == sentences + more
    path.write_bytes(b"")
    assert read_texts(str(path), None) == []
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(UserError, match="-: is no text in UTF-8"):
        read_texts("-", None)

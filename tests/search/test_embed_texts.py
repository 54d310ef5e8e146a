"""What `clip4vla embed text` reads as sentences, and what it refuses."""

import io
import re

import pytest

from clip4vla.common.errors import UserError
from clip4vla.stages.embed import read_texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"caption\na,b\nc\n", ":2: 2 fields, but the header has 1"),
        (
            "r.csv",
            b'caption,id\n"two\nlines",1\nshort\n',
            ":4: 1 fields, but the header has 2",
        ),
        ("r.tsv", b"id\ttext\n1\ta\tb\n", ":2: 3 fields, but the header has 2"),
        ("r.csv", b"text,text\na,b\n", ":1: two columns are named text"),
        ("r.csv", b'text\nfine\n"open\n', ":3: not a row of a table (unexpected end of data)"),
        ("r.csv", b"", "empty. Fix: begin with a line"),
        ("r.csv", b"text\n\xff\n", "not UTF-8. Fix: "),
        ("r.txt", b"a\n\xff\n", "not UTF-8. Fix: "),
    ],
)
def test_malformed_tables_of_texts_are_refused_with_their_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{re.escape(message)}"):
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
    with pytest.raises(UserError, match="-: not UTF-8"):
        read_texts("-", None)

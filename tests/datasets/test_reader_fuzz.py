"""Thousands of corrupt annotation files, each of which gives one line with the error."""

import random
import signal

import miniatures
import pytest

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.datasets import read_annotations
from clip4vla.datasets.collect import CLIP_ID

HOSTILE = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"../../x", b"/etc/passwd", b"\xd0\xb5",  # Cyrillic e
    b"\xe2\x80\xae", b"a" * 300, b"9" * 400, b"1e999", b"-1", b"NaN", b'"', b"\n", b"\r", b",",
    b"{", b"}", b"[", b"]", b":", b"null", b"true", b"{}" , b"[[]]", b"\\ud800", b"\\u0000", b" ",
]  # fmt: skip


def flip(content, chance):
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.randrange(256)


def cut(content, chance):
    del content[chance.randrange(len(content)) :]


def insert(content, chance):
    at = chance.randrange(len(content) + 1)
    content[at:at] = chance.choice(HOSTILE)


def overwrite(content, chance):
    at, piece = chance.randrange(len(content)), chance.choice(HOSTILE)
    content[at : at + len(piece)] = piece


def move_lines(content, chance):
    lines = bytes(content).split(b"\n")
    match chance.randrange(3):
        case 0:
            chance.shuffle(lines)
        case 1:
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
        case 2:
            lines.insert(0, b"")
    content[:] = b"\n".join(lines)


def swap_fields(content, chance):
    parts = bytes(content).split(b",")
    a, b = chance.randrange(len(parts)), chance.randrange(len(parts))
    parts[a], parts[b] = parts[b], parts[a]
    content[:] = b",".join(parts)


def nest(content, chance):
    deep = chance.choice((b"[", b'{"a":')) * chance.choice((200, 100_000))
    at = chance.randrange(len(content) + 1)
    content[at:at] = deep


MUTATIONS = (flip, cut, insert, overwrite, move_lines, swap_fields, nest)


def refuses_or_reads(reader, folder, path, content):
    """Read the dataset with one file replaced; True when it is refused."""
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        section = Dataset(reader=reader, annotations=folder, media=folder)
        annotations = read_annotations("mine", section)
    except UserError as error:
        text = str(error)
        assert text.startswith("mine: ") and len(text.splitlines()) == 1
        assert str(folder) in text and text.isprintable()
        return True
    finally:
        path.write_bytes(original)
    for clip in annotations.clips:
        assert CLIP_ID.fullmatch(clip.clip_id)
        assert ".." not in clip.file.split("/") and not clip.file.startswith("/")
        assert "\0" not in clip.file and len(clip.file) <= 255
        assert clip.start is None or 0 <= clip.start < clip.end < float("inf")
    return False


@pytest.fixture
def limit():
    """No single file may hang: the alarm is far above what a read takes."""

    def late(*_):
        raise TimeoutError("a mutated file took more than 20 s")

    before = signal.signal(signal.SIGALRM, late)
    yield lambda: signal.alarm(20)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("form", miniatures.FORMS)
@pytest.mark.parametrize(
    "count", [pytest.param(60, id="60"), pytest.param(1500, id="1500", marks=pytest.mark.slow)]
)
def test_mutated_files_end_in_one_line(tmp_path, limit, form, count):
    reader, write = miniatures.FORMS[form]
    write(tmp_path)
    chance = random.Random(f"{form} {count}")
    refused = 0
    for _ in range(count):
        path = chance.choice(miniatures.files_in(tmp_path))
        content = bytearray(path.read_bytes())
        for _ in range(chance.choice((1, 1, 2))):
            chance.choice(MUTATIONS)(content, chance)
            if not content:
                break
        limit()
        refused += refuses_or_reads(reader, tmp_path, path, bytes(content))
    assert 0.3 * count < refused < count  # the mutations do bite, and some files stay good


@pytest.mark.parametrize("form", miniatures.FORMS)
@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"\xef\xbb\xbf", b"\0" * 1000, b"[" * 200_000, b"9" * 10_000, b'"' + b"a" * 200_000],
    ids=["empty", "blank", "mark", "nul", "deep", "number", "quote"],
)  # fmt: skip
def test_files_that_are_something_else_end_in_one_line(tmp_path, limit, form, content):
    reader, write = miniatures.FORMS[form]
    write(tmp_path)
    for path in miniatures.files_in(tmp_path):
        limit()
        assert refuses_or_reads(reader, tmp_path, path, content)

"""Read annotation files as users have them; an error is one line that names file and line."""

import codecs
import contextlib
import csv
import functools
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Where, shown
from clip4vla.datasets.collect import CORRECT
from clip4vla.datasets.disguised import (
    EXCEL_ROWS,
    REWRITES,
    UNTOUCHED,
    disguise_of,
    rewritten,
)

_BLOCK = 1 << 20  # characters read at a time from a streamed JSON file
_LARGEST = 1 << 28  # characters of one member; more is a file whose brackets do not close


_WHOLE = "Fix: put the whole file there"


def official_file(name: str, dataset: Dataset, filename: str, content: str) -> Path:
    """Return the path of an annotation file of dataset `name`.

    `content` describes the file. Raises UserError if it is missing, is not a file, cannot be
    opened, or is something else by its first bytes (a web page, an archive).
    """
    path = dataset.annotations / filename
    if not dataset.annotations.exists():
        raise UserError(
            f"{name}: {dataset.annotations}: missing folder. Fix: make it and put {filename} "
            f"({content}) there, {_disable(name)}"
        )
    check_readable(name, path, content)
    if disguise := disguise_of(path):
        kind, fix = disguise
        raise UserError(f"{name}: {path} is {kind}, in place of {content}. Fix: {fix}")
    return path


def check_readable(name: str, path: Path, content: str) -> None:
    """Raise UserError for a file of dataset `name` that is missing or cannot be opened."""
    if not path.exists():
        raise UserError(f"{name}: {path}: missing. Fix: put {content} there, {_disable(name)}")
    if not path.is_file():
        raise UserError(f"{name}: {path}: not a file. Fix: put {content} there, {_disable(name)}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{name}: {path}: not readable. Fix: make it readable, {_disable(name)}")


def _disable(name: str) -> str:
    return f"or set datasets.{name}.enabled: false"


def first_present(
    name: str, dataset: Dataset, choices: tuple[tuple[str, str], ...]
) -> tuple[Path, str]:
    """Return (path, file name) of the first of several (file name, content) that exists.

    Raises UserError as `official_file` does, for the first choice, if none exists.
    """
    for filename, content in choices:
        if (dataset.annotations / filename).exists():
            return official_file(name, dataset, filename, content), filename
    others = ", ".join(filename for filename, _ in choices[1:])
    filename, content = choices[0]
    return official_file(name, dataset, filename, f"{content}, or {others}"), filename


def rows(
    name: str,
    path: Path,
    columns: tuple[str, ...],
    optional: tuple[str, ...] = (),
    delimiter: str = ",",
) -> Iterator[tuple[Where, dict[str, str]]]:
    """Yield the rows of a table with a header, as (where, {column: text}).

    The header must have all of `columns`, and beside them only names of `optional`. Raises
    UserError for missing, unknown and repeated columns, rows that are too short or too long, text
    that is not UTF-8, and invalid csv.
    """
    header: list[str] | None = None
    filled = False
    for line, cells in records(name, path, delimiter):
        where = Where(path, "line", line)
        if header is None:
            header = [cell.strip() for cell in cells]
            _check_header(name, where, header, columns, optional)
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{name}: {where}: {len(cells)} columns where the header has {len(header)}. "
                f"Fix: {CORRECT}"
            )
        filled = True
        yield where, dict(zip(header, cells, strict=True))
    if not filled:
        raise UserError(f"{name}: {path}: no row. {_WHOLE}")


def _check_header(
    name: str,
    where: Where,
    header: list[str],
    columns: tuple[str, ...],
    optional: tuple[str, ...],
) -> None:
    names = shown(", ".join(header))
    if missing := [column for column in columns if column not in header]:
        raise UserError(
            f"{name}: {where}: column {', '.join(missing)} is missing; the header has {names}"
            f"{separated(header) or f'. Fix: {UNTOUCHED}'}"
        )
    if header[0] in ("", "Unnamed: 0"):
        raise UserError(
            f"{name}: {where}: the first column has no name, as when pandas writes its index. "
            "Fix: write the table without it (index=False)"
        )
    official = (*columns, *optional)
    if unknown := [column for column in header if column not in official]:
        raise UserError(
            f"{name}: {where}: unknown column {shown(unknown[0])}. Fix: remove it; the official "
            f"table has {', '.join(official)}"
        )
    if len(set(header)) != len(header):
        raise UserError(f"{name}: {where}: repeated column in {names}. Fix: {UNTOUCHED}")


def headerless_rows(
    name: str, path: Path, n_columns: int, comments: list[tuple[Where, list[str]]] | None = None
) -> Iterator[tuple[Where, list[str]]]:
    """Yield the rows of a table without a header.

    comments: takes the lines before the first row that begin with # (AudioSet's segment lists).
    """
    filled = False
    for line, cells in records(name, path, ","):
        where = Where(path, "line", line)
        if comments is not None and not filled and cells[0].startswith("#"):
            comments.append((where, cells))
            continue
        if len(cells) != n_columns:
            raise UserError(
                f"{name}: {where}: {len(cells)} columns instead of {n_columns}"
                f"{separated(cells) or f'. Fix: {CORRECT}'}"
            )
        filled = True
        yield where, cells
    if not filled:
        raise UserError(f"{name}: {path}: no row. {_WHOLE}")


@functools.cache
def shipped_list(filename: str) -> tuple[str, ...]:
    """Return the lines of a list that comes with this package, without its comments."""
    text = (Path(__file__).parent / "lists" / filename).read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def lines(name: str, path: Path) -> Iterator[tuple[Where, str]]:
    """Yield the lines of a list that are not blank, as (where, text). UserError if it has none."""
    filled = False
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    filled = True
                    _check_cells(name, Where(path, "line", number), [line])
                    yield Where(path, "line", number), line.strip()
    except UnicodeDecodeError:
        raise not_text(name, path) from None
    if not filled:
        raise UserError(f"{name}: {path}: empty. {_WHOLE}")


def json_file(name: str, path: Path, kind: type) -> Any:
    """Read a JSON file whose top value is a `kind` (dict or list)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise not_text(name, path) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name}: {path}, line {error.lineno}: invalid JSON: {error.msg}. {_WHOLE}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: {path}: invalid JSON: {shown(str(error))}. {_WHOLE}") from None
    if not isinstance(value, kind):
        needed = "an object {...}" if kind is dict else "a list [...]"
        raise UserError(f"{name}: {path}: must hold {needed}. {_WHOLE}")
    return value


def json_members(name: str, path: Path) -> Iterator[tuple[Where, str, Any]]:
    """Yield the members of a JSON object as (where, key, value).

    For files too large for memory (HowTo100M's captions are gigabytes): it holds one member and one
    block. Raises UserError as `json_file` does, when it gets to the error.
    """
    with _streamed(name, path) as text:
        text.expect("{")
        for number in itertools.count(1):
            if number == 1 and text.peek() == "}":
                break
            key = text.key()
            yield Where(path, "member", number, shown(key)), key, text.value()
            if text.peek() == "}":
                break
            text.expect(",")
        text.expect("}")
        text.end()


def json_entries(name: str, path: Path, key: str) -> Iterator[tuple[Where, Any]]:
    """Yield the entries of the list that is the only member, `key`, of a JSON object.

    For files too large for memory, as `json_members`, whose errors it raises.
    """
    with _streamed(name, path) as text:
        text.expect("{")
        if (found := text.key()) != key:
            raise ValueError(f"its first key is {found!r}, not {key!r}")
        text.expect("[")
        for number in itertools.count(1):
            if text.peek() == "]" and number == 1:
                raise ValueError(f"the list {key!r} has no entry")
            yield Where(path, "entry", number), text.value()
            if text.peek() == "]":
                break
            text.expect(",")
        text.expect("]")
        text.expect("}")
        text.end()


@contextlib.contextmanager
def _streamed(name: str, path: Path) -> Iterator["_Text"]:
    """Open a JSON file to be read piece by piece; invalid JSON is a UserError with its line."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            text = _Text(stream)
            yield text
    except UnicodeDecodeError:
        raise not_text(name, path) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        # The decoder counts lines from the window's beginning.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(
            f"{name}: {path}, line {text.line()}: invalid JSON object: {shown(reason)}. {_WHOLE}"
        ) from None


class _Text:
    """A window on a stream of text that grows only while one JSON value needs it."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.decoder = json.JSONDecoder()
        self.window = ""
        self.at = 0
        self.lines_before = 1

    def line(self) -> int:
        return self.lines_before + self.window.count("\n", 0, self.at)

    def grow(self) -> bool:
        more = self.stream.read(max(_BLOCK, len(self.window) - self.at))
        self.lines_before += self.window.count("\n", 0, self.at)
        self.window = self.window[self.at :] + more
        self.at = 0
        return bool(more)

    def peek(self) -> str:
        """Return the next character that is not white space; the window then begins there."""
        if found := self._next():
            return found
        raise ValueError("the file ends too early")

    def expect(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"{character} is missing")
        self.at += 1

    def end(self) -> None:
        """Raise ValueError if there is more text: a second list after the first, say."""
        if more := self._next():
            raise ValueError(f"{more} stands after the end of the object")

    def _next(self) -> str:
        """Go to the next character that is not white space, and return it; "" at the end."""
        while True:
            while self.at < len(self.window) and self.window[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.window):
                return self.window[self.at]
            if not self.grow():
                return ""

    def key(self) -> str:
        """Return the key of the next member, and go to its value."""
        if self.peek() != '"':
            raise ValueError('a key in "..." is missing')
        key = self.value()
        self.expect(":")
        self.peek()
        return key

    def value(self) -> Any:
        while True:
            try:
                value, end = self.decoder.raw_decode(self.window, self.at)
            except json.JSONDecodeError:
                if len(self.window) - self.at > _LARGEST or not self.grow():
                    raise
                continue
            # A number at the window's end may continue: 2.5 is a number, and so is 2.5e3.
            if self.window[end : end + 1] in tuple(" \t\r\n,:}]"):
                self.at = end
                return value
            length = end - self.at
            if not self.grow():
                self.at = length  # growing moved the window's beginning to the value's
                return value


def records(
    name: str,
    path: Path,
    delimiter: str,
    fix: str = UNTOUCHED,
    rewrites: Mapping[str, str] = REWRITES,
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a csv file that are not blank, as (line, cells).

    fix: the remedy for invalid csv; rewrites: what of a spreadsheet's is refused. Raises UserError.
    """
    line = 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
            while True:
                line = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    break
                if cells:
                    _check_cells(name, Where(path, "line", line), cells, fix, rewrites)
                    yield line, cells
            if reader.line_num == EXCEL_ROWS:
                raise UserError(
                    f"{name}: {path} ends at line {EXCEL_ROWS:,}, the last row of an Excel sheet, "
                    f"which drops the rest. Fix: {fix}"
                )
    except UnicodeDecodeError:
        raise not_text(name, path) from None
    except csv.Error as error:
        raise UserError(
            f"{name}: {path}, line {line}: invalid csv: {shown(str(error))}. Fix: {fix}"
        ) from None


def separated(cells: list[str], fix: str = UNTOUCHED) -> str:
    """Return a hint where all columns are in one cell, as after a spreadsheet's export; else ""."""
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
        if len(cells) == 1 and separator in cells[0]:
            return f"; its columns are separated by {word}. Fix: {fix}"
    return ""


def _check_cells(
    name: str,
    where: Where,
    cells: list[str],
    fix: str = UNTOUCHED,
    rewrites: Mapping[str, str] = REWRITES,
) -> None:
    """Refuse cells that a spreadsheet rewrote, such as ids that begin with - or =, or 12E4."""
    if damage := rewritten(cells, rewrites):
        raise UserError(f"{name}: {where}: {damage}. Fix: {fix}")


def not_text(name: str, path: Path) -> UserError:
    """Return the error for a file that is not UTF-8, with the line of its first invalid byte."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with open(path, "rb") as stream:
        try:
            while block := stream.read(_BLOCK):
                decoder.decode(block)
                line += block.count(b"\n")
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
    return UserError(f"{name}: {path}, line {line}: not UTF-8 text. Fix: save the file as UTF-8")

"""Opens annotation files as users have them; a mistake becomes one line with file and line."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import shown
from clip4vla.errors import UserError

_BLOCK = 1 << 20  # characters read at a time from a streamed JSON file
_LARGEST = 1 << 28  # characters of one member; more is a file whose brackets do not close


def official_file(name: str, dataset: Dataset, filename: str, what: str) -> Path:
    """Path of an annotation file of dataset `name`.

    Raises UserError (one line: dataset, path, what belongs there, remedy) if it is missing, is not
    a file or cannot be opened.
    """
    path = dataset.annotations / filename
    escape = f"or set datasets.{name}.enabled: false"
    if not dataset.annotations.exists():
        raise UserError(
            f"{name}: the folder {dataset.annotations} is missing: "
            f"make it and put {filename} ({what}) there, {escape}"
        )
    if not path.exists():
        raise UserError(f"{name}: {path} is missing: put {what} there, {escape}")
    if not path.is_file():
        raise UserError(f"{name}: {path} is not a file: put {what} there, {escape}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{name}: {path} cannot be read: make it readable, {escape}")
    return path


def rows(
    name: str, path: Path, columns: tuple[str, ...], delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a table with a header, as ("path, line n", {column: text}).

    Raises UserError for missing columns, rows that are too short or too long, and text that is not
    UTF-8 or no table.
    """
    for line, cells in _records(name, path, delimiter):
        if line == 1:
            header = [cell.strip() for cell in cells]
            missing = [column for column in columns if column not in header]
            if missing:
                raise UserError(
                    f"{name}: {path}, line 1: column {', '.join(missing)} is missing; "
                    f"it has {shown(', '.join(header))}"
                )
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{name}: {path}, line {line}: {len(cells)} columns where the header has "
                f"{len(header)}"
            )
        yield f"{path}, line {line}", dict(zip(header, cells, strict=True))


def headerless_rows(name: str, path: Path, n_columns: int) -> Iterator[tuple[str, list[str]]]:
    """Rows of a table whose lines before the data begin with # (AudioSet's segment lists)."""
    for line, cells in _records(name, path, ","):
        if cells[0].startswith("#"):
            continue
        if len(cells) != n_columns:
            raise UserError(
                f"{name}: {path}, line {line}: {len(cells)} columns instead of {n_columns}"
            )
        yield f"{path}, line {line}", cells


def lines(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a plain list that are not blank, as ("path, line n", text)."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{path}, line {number}", line.strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {path} is not UTF-8 text: {error.reason}") from None


def json_file(name: str, path: Path, kind: type) -> Any:
    """A JSON file whose top value is a `kind` (dict or list)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {path} is not UTF-8 text: {error.reason}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: {path}, line {error.lineno}: no JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: {path} is no usable JSON: {shown(str(error))}") from None
    if not isinstance(value, kind):
        wanted = "an object {...}" if kind is dict else "a list [...]"
        raise UserError(f"{name}: {path} must hold {wanted}")
    return value


def json_members(name: str, path: Path) -> Iterator[tuple[str, str, Any]]:
    """Members of a JSON object, one after another: ("path, member 'key'", key, value).

    For files too large to hold (HowTo100M's captions are gigabytes); memory is one member and one
    block. Raises UserError as `json_file` does, when it gets to the mistake.
    """
    decoder = json.JSONDecoder()
    try:
        with open(path, encoding="utf-8-sig") as stream:
            text = _Text(stream)
            text.expect("{")
            if text.peek() == "}":
                return
            while True:
                if text.peek() != '"':
                    raise ValueError('a key in "..." is missing')
                key = text.value(decoder)
                text.expect(":")
                text.peek()
                yield f"{path}, member {shown(key)}", key, text.value(decoder)
                if text.peek() == "}":
                    return
                text.expect(",")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {path} is not UTF-8 text: {error.reason}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{name}: {path}, line {text.line()}: no JSON object: {shown(str(error))}"
        ) from None


class _Text:
    """A window on a stream of text that grows only while one JSON value needs it."""

    def __init__(self, stream):
        self.stream = stream
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
        """The next character that is not white space; the window then begins there."""
        while True:
            while self.at < len(self.window) and self.window[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.window):
                return self.window[self.at]
            if not self.grow():
                raise ValueError("the file ends too early")

    def expect(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"{character} is missing")
        self.at += 1

    def value(self, decoder: json.JSONDecoder) -> Any:
        while True:
            try:
                value, end = decoder.raw_decode(self.window, self.at)
            except json.JSONDecodeError:
                if len(self.window) - self.at > _LARGEST or not self.grow():
                    raise
                continue
            # a number at the window's end may go on: 2.5 is a number, and so is 2.5e3
            if self.window[end : end + 1] in tuple(" \t\r\n,:}"):
                self.at = end
                return value
            length = end - self.at
            if not self.grow():
                self.at = length  # growing moved the window's beginning to the value's
                return value


def _records(name: str, path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
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
                    yield line, cells
        if line == 1:
            raise UserError(f"{name}: {path} is empty")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {path}, line {line}: not UTF-8 text: {error.reason}") from None
    except csv.Error as error:
        raise UserError(f"{name}: {path}, line {line}: no table: {error}") from None

"""YAML with places: every value knows its file and line, and a key that stands twice is refused."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clip4vla.errors import UserError

KeyPath = tuple[str | int, ...]


@dataclass
class Document:
    """A YAML file: its value and the line of every key (1-based).

    A dotted key `a.b: 1` counts as the nested one, in the value as in the lines.
    """

    path: Path
    value: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def place(self, key: KeyPath) -> str | None:
        """`file:line` of a key or of its nearest parent that stands in this file."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.lines:
                return f"{self.path}:{self.lines[key[:length]]}"
        return None

    def holds(self, key: KeyPath) -> int:
        """How many leading parts of a key stand in this file."""
        return max((n for n in range(len(key) + 1) if n == 0 or key[:n] in self.lines), default=0)


def read_yaml(path: str | Path) -> Document:
    """Read a mapping from a YAML file. Raises UserError with file and line."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from None
    if root is None:
        return Document(path, {})
    if not isinstance(value, dict):
        raise UserError(f"{path}:1: a mapping `key: value` was expected at the top")
    document = Document(path, undotted(value))
    _note_lines(document, root, ())
    return document


def _note_lines(document: Document, node: yaml.Node, at: KeyPath) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = (*at, *str(key_node.value).split("."))
            if key in document.lines:
                raise UserError(
                    f"{document.path}:{line}: {'.'.join(map(str, key))}: "
                    f"stands twice (first on line {document.lines[key]}); remove one"
                )
            for length in range(len(at) + 1, len(key)):
                document.lines.setdefault(key[:length], line)
            document.lines[key] = line
            _note_lines(document, value_node, key)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*at, index)] = item.start_mark.line + 1
            _note_lines(document, item, (*at, index))


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Deep merge: mappings are joined, everything else is replaced. Neither argument changes."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def undotted(value: Any) -> Any:
    """`{"a.b": 1}` -> `{"a": {"b": 1}}` at any depth, so that rows name a switch in one line."""
    if isinstance(value, list):
        return [undotted(item) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for key, item in value.items():
        value = undotted(item)
        for part in reversed(str(key).split(".")):
            value = {part: value}
        result = merge(result, value)
    return result

"""YAML with the file and line of every key; duplicate keys are errors."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clip4vla.common.errors import UserError

FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: ten times as fast
DEEP = 10_000  # a level of nesting takes a bracket or a column; the loader in C dies of very many
MOST = 100_000  # values of a file, with every alias written out: aliases of aliases are 2**n
FIXES = {  # part of a problem that the loaders name -> what to do
    "cannot start any token": "indent with spaces instead of tabs, and quote text that begins with "
    "a special character",
    "mapping values are not allowed": "indent it like the lines around it, and quote text that "
    "contains `: `",
    "for the tag": "remove the tag, or quote the text",
    "undefined alias": "name its anchor (&name) before it, or quote text that begins with *",
    "second occurrence": "rename one of the two equal anchors (&name)",
    "another document": "keep one document in the file",
    "escape character": "put text with backslashes in single quotes",
    "unacceptable character": "remove it, and save the file in UTF-8",
    "for merging": "give `<<` an alias (*name) of a mapping",
}
FIX = "correct the brackets, quotes and indents on this line and before it"
KeyPath = tuple[str | int, ...]
COMMAND_LINE = "command line"  # place of values that are in no file


@dataclass
class Document:
    """A YAML file: its value and the line of every key (1-based).

    A dotted key `a.b: 1` counts as nested, in the value and in the lines. The command line is a
    document too, without lines.
    """

    path: Path
    value: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int | None] = field(default_factory=dict)
    # keys that are written out -> whether their value is a mapping
    hold_keys: dict[KeyPath, bool] = field(default_factory=dict)

    def place(self, key: KeyPath) -> str | None:
        """Return `file:line` of a key, or of its nearest parent in this file; None without one."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.lines:
                return self._at(self.lines[key[:length]])
        return None

    def holds(self, key: KeyPath) -> int:
        """Return how many leading parts of a key this file has."""
        return max((n for n in range(len(key) + 1) if n == 0 or key[:n] in self.lines), default=0)

    def note(self, at: KeyPath, dotted: str, line: int | None, holds_keys: bool) -> KeyPath:
        """Note a key of the mapping `at`; return its full path.

        UserError for a duplicate, and for a key that is both a mapping and another value.
        """
        key = (*at, *dotted.split("."))
        where = f"{self._at(line)}: {'.'.join(map(str, key))}"
        if key in self.hold_keys:
            raise UserError(f"{where}: duplicate key{self._first(key)}. Fix: remove one")
        if not holds_keys and key in self.lines:
            raise UserError(f"{where}: its nested keys are set {self._on(key)}. Fix: remove one")
        for length in range(len(at) + 1, len(key)):
            if self.hold_keys.get(key[:length]) is False:
                outer = ".".join(map(str, key[:length]))
                first = self._on(key[:length])
                raise UserError(f"{where}: {outer} has a value {first}. Fix: remove one")
            self.lines.setdefault(key[:length], line)
        self.hold_keys[key] = holds_keys
        self.lines.setdefault(key, line)
        return key

    def _at(self, line: int | None) -> str:
        return str(self.path) if line is None else f"{self.path}:{line}"

    def _first(self, key: KeyPath) -> str:
        line = self.lines[key]
        return "" if line is None else f" (first on line {line})"

    def _on(self, key: KeyPath) -> str:
        line = self.lines[key]
        return "already" if line is None else f"on line {line}"


def read_yaml(path: str | Path) -> Document:
    """Read a mapping from a YAML file. Raises UserError with file and line."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file. Fix: correct its path") from None
    except OSError as error:
        fix = "name a file" if path.is_dir() else "make it readable"
        raise UserError(f"{path}: cannot be read ({error.strerror}). Fix: {fix}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot be read as text ({error}). Fix: save it in UTF-8"
        ) from None
    document = Document(path)
    try:
        loader = _loader(text)
        root = loader.get_single_node()
        value = None
        if root is not None:
            _note_nodes(document, root, (), ())
            value = undotted(_constructed(path, loader, root))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        fix = next((fix for part, fix in FIXES.items() if part in problem), FIX)
        raise UserError(f"{path}{line}: not valid YAML: {problem}. Fix: {fix}") from None
    except RecursionError:
        raise UserError(
            f"{path}: nested too deeply. Fix: remove the brackets or indents that nothing needs"
        ) from None
    if root is None:
        return document
    if not isinstance(value, dict):
        raise UserError(f"{path}:1: not a mapping. Fix: write `key: value` at the top level")
    document.value = value
    return document


def _constructed(path: Path, loader: Any, root: yaml.Node) -> Any:
    try:
        return loader.construct_document(root)
    # Of a date such as 2023-13-45, a number of 5000 digits, or a text unlike its tag (`!!int x`).
    except (ValueError, LookupError, AttributeError) as error:
        problem = str(error).split(";")[0].rstrip(".")
        raise UserError(
            f"{path}: not valid YAML: {problem}. Fix: correct the date or number, or quote it "
            "if it is text"
        ) from None


def _loader(text: str) -> Any:
    """Return the loader in C, or Python's, which raises RecursionError, if nesting may be deep."""
    brackets, columns = text.count("[") + text.count("{"), max(map(len, text.splitlines() or [""]))
    return (yaml.SafeLoader if brackets + columns > DEEP else FAST_LOADER)(text)


def command_line(values: dict[str, Any]) -> Document:
    """Return the values of the command line as a document. UserError for contradicting keys."""
    document = Document(Path(COMMAND_LINE), undotted(values))
    _note_values(document, values, ())
    return document


def _note_nodes(
    document: Document, node: yaml.Node, at: KeyPath, outer: tuple[yaml.Node, ...]
) -> None:
    """Note the keys of a node. outer: the nodes that contain it."""
    if node in outer:
        where = f"{document.path}:{node.start_mark.line + 1}: {'.'.join(map(str, at))}"
        raise UserError(f"{where}: an alias (*name) contains itself. Fix: write out its value")
    if len(document.lines) > MOST:
        raise UserError(
            f"{document.path}: more than {MOST:,} values with its aliases (*name) written out. "
            "Fix: use fewer aliases"
        )
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(
                    f"{document.path}:{line}: a key is not text. Fix: write `key: value`"
                )
            holds_keys = isinstance(value_node, yaml.MappingNode)
            key = document.note(at, str(key_node.value), line, holds_keys)
            _note_nodes(document, value_node, key, (*outer, node))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*at, index)] = item.start_mark.line + 1
            _note_nodes(document, item, (*at, index), (*outer, node))


def _note_values(document: Document, value: Any, at: KeyPath) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            key = document.note(at, str(name), None, isinstance(item, dict))
            _note_values(document, item, key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            document.lines[(*at, index)] = None
            _note_values(document, item, (*at, index))


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return a deep merge: mappings are joined, other values replaced; arguments do not change."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def undotted(value: Any) -> Any:
    """Return `{"a": {"b": 1}}` for `{"a.b": 1}`, at any depth; rows name a switch in one line."""
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

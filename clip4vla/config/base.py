"""The base of every config section: unknown keys are refused, science is told from runtime.

A field is scientific unless it is marked `runtime`. Only scientific fields enter run keys
(`clip4vla.config.keys`), so that paths, folders and gates can change without retraining anything.
"""

import unicodedata
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from clip4vla.config.yaml import merge

BOOL = "bool_for_a_number"  # type of the error, whose context has the key


class Section(BaseModel):
    """A part of the config. Unknown keys and wrong types are errors; instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, given: Any) -> Any:
        """A key of an inner section changes that key alone.

        What the outer section has instead of the inner one's own defaults stays: one key of
        `second_stage.optimiser` leaves the second stage's epochs and batch size as they are.
        """
        if not isinstance(given, dict):
            return given
        kept = dict(given)
        for name, field in cls.model_fields.items():
            key = field.alias or name
            if isinstance(field.default, Section) and isinstance(given.get(key), dict):
                own = field.default.model_dump(exclude_defaults=True, by_alias=True)
                kept[key] = merge(own, given[key])
        return kept

    @model_validator(mode="before")
    @classmethod
    def _has_no_bool_for_a_number(cls, given: Any) -> Any:
        """Python takes true and false for 1 and 0; here a number is a number."""
        for name in _number_fields(cls) if isinstance(given, dict) else ():
            if _holds_bool(given.get(name)):
                what = "a number is wanted, not true or false (YAML: yes, no, on, off)"
                raise PydanticCustomError(BOOL, what, {"key": name})
        return given

    def scientific(self) -> dict[str, Any]:
        """The JSON-ready values that decide a result.

        Runtime fields are left out. So is a field that was added later, while it holds its
        `neutral` value (the behaviour before it existed): old run keys stay valid.
        """
        values = {}
        for name, field in type(self).model_fields.items():
            extra = extra_of(field)
            value = getattr(self, name)
            if extra.get("runtime") or ("neutral" in extra and value == extra["neutral"]):
                continue
            values[name] = _plain(value)
        return values


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.scientific()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@cache
def _number_fields(section: type[Section]) -> list[str]:
    """Fields of numbers, or of lists or mappings of them."""
    fields = section.model_fields.items()
    return [name for name, field in fields if _is_of_numbers(field.annotation)]


def _is_of_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_is_of_numbers, get_args(annotation)))


def _holds_bool(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_bool, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_bool, value))
    return isinstance(value, bool)


def _printable(text: str) -> str:
    """Refuse control characters and lone surrogates, which no page, figure or terminal can show."""
    for mark in text:
        if unicodedata.category(mark) in ("Cc", "Cs") and not mark.isspace():
            raise ValueError(f"{mark!r} is a control character. Fix: remove it")
    return text


def _one_line(text: str) -> str:
    if len(text.strip().splitlines()) != 1:
        raise ValueError("a text of one line is wanted")
    return text.strip()


Printable = Annotated[str, AfterValidator(_printable)]  # a text of one or more lines
OneLine = Annotated[Printable, AfterValidator(_one_line)]  # what stands in a cell or a heading
NAME = r"^[a-z][a-z0-9_]{0,40}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]  # of a table, a row: of files and commands


def each_once(values: list[Any] | None) -> list[Any] | None:
    """ValueError for a list in which something stands twice."""
    if values:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{value} stands twice; name each once")
    return values


def runtime(default: Any = ..., **options: Any) -> Any:
    """A field that says how or where something runs, never what is computed."""
    return Field(default, json_schema_extra={"runtime": True}, **options)


def extra_of(field: FieldInfo) -> dict[str, Any]:
    """Return the marks of a field: `runtime`, or `neutral` with its value."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def refuse_unread(section: Section, switch: str, reads: dict[str, tuple[str, ...]]) -> None:
    """ValueError for an option set away from its default that the switch's value does not read.

    `reads` maps values of the switch to the names of the options that they alone read.
    """
    fields = type(section).model_fields
    for value, names in reads.items():
        for name in names:
            if getattr(section, switch) != value and getattr(section, name) != fields[name].default:
                raise ValueError(f"{name} is read by {switch}: {value} alone; leave it out")

"""Base class of the config sections: strict keys, and scientific and runtime fields.

A field is scientific unless it is marked `runtime`. Only scientific fields enter run keys
(`clip4vla.config.keys`), so that paths and limits can change without retraining.
"""

import unicodedata
from functools import cache
from typing import Annotated, Any, ClassVar, get_args

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

_NOTHING = object()
AT_KEY = "at_key"  # type of an error whose context names a key of the section


class Section(BaseModel):
    """Part of the config. Unknown keys and wrong types are errors; instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)
    # Keys that were removed -> the value that the code computes since. Run keys still state it, so
    # that old runs stay valid; a config that asks for another value is an error.
    RETIRED: ClassVar[dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, values: Any) -> Any:
        """Merge the keys of an inner section into the outer section's default for it.

        So one key of `second_stage.optimiser` does not reset the second stage's epochs and batch
        size to the defaults of Optimiser.
        """
        if not isinstance(values, dict):
            return values
        defaults = _inner_defaults(cls).items()
        held = {key: default for key, default in defaults if isinstance(values.get(key), dict)}
        return {**values, **{key: merge(default, values[key]) for key, default in held.items()}}

    @model_validator(mode="before")
    @classmethod
    def _has_no_bool_for_a_number(cls, values: Any) -> Any:
        """Refuse true and false for a number, which Python takes for 1 and 0."""
        for name in _number_fields(cls) if isinstance(values, dict) else ():
            if _holds_bool(values.get(name)):
                problem = (
                    "must be a number, not true or false (YAML: yes, no, on, off). Fix: write one"
                )
                raise PydanticCustomError(AT_KEY, problem, {"key": name})
        return values

    @model_validator(mode="before")
    @classmethod
    def _has_no_retired_key(cls, values: Any) -> Any:
        """Drop retired keys that have the value that is still computed; refuse others."""
        if not cls.RETIRED or not isinstance(values, dict):
            return values
        for name, value in cls.RETIRED.items():
            if name in values and (values[name] != value or _holds_bool(values[name])):
                raise PydanticCustomError(
                    AT_KEY, "this option was removed. Fix: remove the key", {"key": name}
                )
        return {name: value for name, value in values.items() if name not in cls.RETIRED}

    def scientific(self) -> dict[str, Any]:
        """Return the JSON-ready values that decide a result.

        Runtime fields are left out. So are fields that were added later, while they have their
        `neutral` value (the behaviour before they existed), and retired keys have their only
        value: old run keys stay valid.
        """
        values = dict(self.RETIRED)
        for name, neutral in _scientific_fields(type(self)):
            value = getattr(self, name)
            if neutral is _NOTHING or value != neutral:
                values[name] = _plain(value)
        return values


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):  # most of them
        return value
    if isinstance(value, Section):
        return value.scientific()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@cache
def _inner_defaults(section: type[Section]) -> dict[str, dict[str, Any]]:
    """Return the defaults of the fields that are sections: what differs from their classes'."""
    return {
        field.alias or name: field.default.model_dump(exclude_defaults=True, by_alias=True)
        for name, field in section.model_fields.items()
        if isinstance(field.default, Section)
    }


@cache
def _scientific_fields(section: type[Section]) -> list[tuple[str, Any]]:
    """Return (name, `neutral` value or _NOTHING) of the fields that may enter a run key."""
    extras = {name: extra_of(field) for name, field in section.model_fields.items()}
    return [
        (name, extra.get("neutral", _NOTHING))
        for name, extra in extras.items()
        if not extra.get("runtime")
    ]


@cache
def _number_fields(section: type[Section]) -> list[str]:
    """Return the names of fields of numbers, or of lists or mappings of them."""
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
    """Refuse control characters and lone surrogates, which pages and terminals cannot show."""
    for mark in text:
        if unicodedata.category(mark) in ("Cc", "Cs") and not mark.isspace():
            raise ValueError(f"{mark!r} is a control character. Fix: remove it")
    return text


def _one_line(text: str) -> str:
    if len(text.strip().splitlines()) != 1:
        raise ValueError("must be one line of text. Fix: write one")
    return text.strip()


Printable = Annotated[str, AfterValidator(_printable)]  # a text of one or more lines
OneLine = Annotated[Printable, AfterValidator(_one_line)]  # of a cell or a heading
NAME = r"^[a-z][a-z0-9_]{0,40}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]  # of a table, a row: of files and commands


def each_once(values: list[Any] | None) -> list[Any] | None:
    """Raise ValueError for a list with duplicates."""
    if values:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"duplicate {value}. Fix: name each once")
    return values


def runtime(default: Any = ..., **options: Any) -> Any:
    """Return a field that decides how or where something runs, not its results."""
    return Field(default, json_schema_extra={"runtime": True}, **options)


def added(default: Any, description: str = "", **options: Any) -> Any:
    """Return a field that was added later: run keys leave out its default, the old behaviour."""
    extra = {"neutral": default}
    return Field(default, description=description, json_schema_extra=extra, **options)


def extra_of(field: FieldInfo) -> dict[str, Any]:
    """Return the marks of a field: `runtime`, or `neutral` with its value."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def refuse_unread(section: Section, switch: str, reads: dict[str, tuple[str, ...]]) -> None:
    """Raise ValueError for an option that has no effect with the value of the switch.

    reads: values of the switch -> names of the options that only they read. An option with its
    default is not an error.
    """
    fields = type(section).model_fields
    for value, names in reads.items():
        for name in names:
            if getattr(section, switch) != value and getattr(section, name) != fields[name].default:
                raise ValueError(
                    f"{name} only has an effect with {switch}: {value}. Fix: remove it"
                )

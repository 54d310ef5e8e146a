"""Records: small JSON files beside the outputs of finished stages, from which MLflow is filled.

A record holds no times, hosts or absolute paths, so that equal stages give equal bytes. Files are
named relative to the record, with their sha256, so that a changed file means a changed record.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, sha256_of, sha256_of_file, write_json
from clip4vla.config.layout import remake

Kind = Literal["data", "pretrain", "substitute", "finetune", "evaluate", "tables"]
KINDS = get_args(Kind)


@dataclass(frozen=True)
class Record:
    """Content of a record.

    files: path relative to the record -> sha256. datasets: splits that were read, each with name,
    digest (32 hex digits), context and counts.
    """

    kind: Kind
    key: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    curve: str | None
    artifacts: list[str]
    model: str | None
    inputs: list[str]
    files: dict[str, str] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)


def write_record(
    path: str | Path,
    kind: Kind,
    key: str,
    name: str,
    params: dict[str, Any] | None = None,
    tags: dict[str, Any] | None = None,
    metrics: dict[str, float] | None = None,
    curve: str | Path | None = None,
    artifacts: list[str | Path] | None = None,
    inputs: list[str] | None = None,
    model: str | Path | None = None,
    datasets: list[dict[str, Any]] | None = None,
) -> None:
    """Write the record of a finished stage.

    key: identifies the stage within its kind (run key, dataset version, table); inputs: keys of
    the records that it builds on; params: may be nested, names are joined with dots; curve: a
    metrics.jsonl; model: a weights file, which MLflow registers and does not copy; datasets: see
    `Record`. Raises UserError for an unknown kind, a number that is not finite, or a missing file.
    """
    path = Path(path)
    if kind not in KINDS:
        raise UserError(f"{path}: unknown kind {kind!r}. Fix: use one of {', '.join(KINDS)}")
    for metric, value in (metrics or {}).items():
        if not math.isfinite(value):
            raise UserError(
                f"{path}: metric {metric} is {value}. Fix: look at the run's own output"
            )
    files = {}

    def relative(file: str | Path) -> str:
        if not Path(file).is_file():
            raise UserError(f"{path}: {file} is missing. Fix: run {kind} {key} again")
        name = os.path.relpath(Path(file).resolve(), path.parent.resolve())
        files[name] = sha256_of_file(file)
        return name

    record = Record(
        kind=kind,
        key=key,
        name=name,
        params=flat(params or {}),
        tags={tag: str(value) for tag, value in (tags or {}).items()},
        metrics={metric: float(value) for metric, value in (metrics or {}).items()},
        curve=relative(curve) if curve else None,
        artifacts=sorted(relative(file) for file in artifacts or []),
        model=relative(model) if model else None,
        inputs=sorted(set(inputs or [])),
        files=files,
        datasets=datasets or [],
    )
    write_json(path, asdict(record))


def read_record(path: str | Path) -> tuple[Record, str]:
    """Return a record and the sha256 of its content. UserError for an invalid file."""
    path = Path(path)
    try:
        value = read_json(path)
        value.setdefault("datasets", [])  # records of older versions lack it
        record = Record(**{item.name: value[item.name] for item in fields(Record)})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: not a record of a stage, or corrupt. Fix: {remake(path)}"
        ) from None
    return record, sha256_of(json.dumps(value, sort_keys=True))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as `a.b.c` -> text, with lists and nulls as JSON."""
    texts: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            texts |= flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            texts[f"{prefix}{name}"] = text
    return texts

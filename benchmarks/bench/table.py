"""The table of records as Markdown, in which rows older than the code are marked."""

import contextlib
from collections.abc import Iterable
from typing import Any

from bench.rows import Row, shown
from bench.script import code_sha256

OLDER = ", **older than the code**"
HEAD = """
| benchmark | baseline | ours | ratio (rounds) | target | more | measured |
| --- | --- | --- | --- | --- | --- | --- |
"""

Records = dict[str, dict[str, Any]]


def is_current(record: dict[str, Any]) -> bool:
    """Say whether the files that a record measured are as they were."""
    with contextlib.suppress(FileNotFoundError):
        return code_sha256(record["code"]) == record["code_sha256"]
    return False


def markdown(records: Records) -> str:
    """Return the table of records by name, and below it on what they were measured."""
    lines = [line for name, record in records.items() for line in _lines(name, record)]
    measured = [record for record in records.values() if "error" not in record]
    return HEAD + "".join(lines) + "\n" + "".join(f"* {text}\n" for text in _conditions(measured))


def _lines(name: str, record: dict[str, Any]) -> Iterable[str]:
    if "error" in record:
        yield _line(f"`{name}`", "", "", "", "", record["error"], "not measured")
        return
    measured = record["date"] + ("" if is_current(record) else OLDER)
    for row in (Row(**values) for values in record["rows"]):
        label = f"`{name}`: {row.name.removeprefix(f'{name}, ')}" if row.name else f"`{name}`"
        if row.skipped:
            yield _line(label, row.baseline, "", "", row.target, row.skipped, "not measured")
            continue
        baseline = f"{row.baseline}, {shown(row.baseline_seconds)}" if row.ratio else ""
        ours = f"{shown(row.seconds)}{'' if row.clock == 'CPU' else f' {row.clock}'}"
        yield _line(label, baseline, ours, row.spread(), row.target, row.note, measured)


def _line(*cells: str) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return "|" + "|".join(f" {cell} " if cell else " " for cell in escaped) + "|\n"


def _conditions(records: list[dict[str, Any]]) -> Iterable[str]:
    """Yield machines and packages, each once, and what the benchmarks took."""
    yield from dict.fromkeys(f"{record['machine']}; {record['software']}." for record in records)
    if records:
        wall, cpu = (sum(record[key] for record in records) for key in ("seconds", "cpu_seconds"))
        loads = [record["load"] for record in records]
        peak = max(record["peak_gib"] for record in records)
        yield (
            f"All together: {wall:.0f} s, {cpu:.0f} s of CPU, at load {min(loads)} to {max(loads)};"
            f" the largest process had {peak:.1f} GiB."
        )

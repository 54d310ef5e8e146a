"""attempts.jsonl of a run: where each attempt ran, on which code, and how much it used.

MLflow gets hosts, jobs, commits and times from here, because records hold nothing volatile.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip4vla.common.files import read_json
from clip4vla.common.provenance import provenance, usage

NAME, UNDER_WAY = "attempts.jsonl", "attempt.json"
USED = ("seconds", "cpu_seconds", "peak_memory_mib", "peak_gpu_memory_mib")


def append_attempt(state: Path, row: dict[str, Any]) -> None:
    """Append the line of an attempt that has ended."""
    state.mkdir(parents=True, exist_ok=True)
    with open(state / NAME, "a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read() != b"\n":  # half a line of a writer that was killed
                stream.write(b"\n")
        stream.write((json.dumps(row) + "\n").encode())


@contextmanager
def attempt(state: Path) -> Iterator[None]:
    """Note the attempt of a stage that has no checkpoints."""
    began, end = time.time(), "error"
    try:
        yield
        end = "finished"
    finally:
        times = {"started_ms": int(began * 1000), "seconds": round(time.time() - began, 1)}
        append_attempt(state, {**times, "end": end, **provenance(), **usage()})


def read_attempts(state: Path | None) -> list[dict[str, Any]]:
    """Return the attempts of a run, oldest first, without lines that a full disk cut short."""
    rows: list[dict[str, Any]] = []
    try:
        text = (state / NAME).read_text(encoding="utf-8") if state else ""
    except FileNotFoundError:
        text = ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "started_ms" in row and "seconds" in row:
            rows.append(row)
    return rows


def attempt_without_end(state: Path) -> dict[str, Any] | None:
    """Return the attempt of attempt.json, which is running or was killed; None without one."""
    try:
        return dict(read_json(state / UNDER_WAY))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def times_of(attempts: list[dict[str, Any]]) -> tuple[int | None, int | None]:
    """Return when the first attempt began and the last finished one ended, in ms, where known."""
    ends = [_ended_ms(row) for row in attempts if row.get("end") == "finished"]
    began = min((int(row["started_ms"]) for row in attempts), default=None)
    return began, ends[-1] if ends else None


def tags_of(attempts: list[dict[str, Any]]) -> dict[str, str]:
    """Return tags for the hosts, jobs, commit and user of a run's attempts."""
    if not attempts:
        return {}
    last = attempts[-1]
    tags = {
        "hosts": _listed(attempts, "host"),
        "slurm_job_ids": _listed(attempts, "slurm_job_id"),
        "git_sha": last.get("git_sha", ""),
        "git_dirty": str(last["git_dirty"]).lower() if "git_dirty" in last else "",
        "attempts": str(len(attempts)),
        "mlflow.user": last.get("user", ""),
        "mlflow.source.git.commit": last.get("git_sha", ""),
    }
    return {name: value for name, value in tags.items() if value}


def usage_of(attempts: list[dict[str, Any]]) -> Iterator[tuple[str, float, int, int]]:
    """Yield (name, value, number of the attempt from 1, time in ms) of each attempt's usage."""
    for number, row in enumerate(attempts, start=1):
        for name in USED:
            if name in row:
                yield f"system/attempt_{name}", float(row[name]), number, _ended_ms(row)


def _ended_ms(row: dict[str, Any]) -> int:
    return int(row["started_ms"] + 1000 * row["seconds"])


def _listed(attempts: list[dict[str, Any]], name: str) -> str:
    return " ".join(dict.fromkeys(str(row[name]) for row in attempts if name in row))

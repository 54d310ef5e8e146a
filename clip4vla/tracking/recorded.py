"""Outputs of a stage, checked when another stage reads them: they must be what record.json names.

Every stage writes the sha256 of its outputs into its record last. Stages of older versions, and
files that came without their record, cannot be checked: they are read, and said to be unverified.
"""

import sys
from pathlib import Path

from clip4vla.errors import UserError
from clip4vla.files import sha256_of_file
from clip4vla.tracking.record import Record, read_record


def check_recorded(path: str | Path, key: str | None = None) -> bool:
    """Return whether an output is known to be what its stage left; False: no record names it.

    `path`: lies beside its record.json. `key`: of the run that it should be of; None: any.
    UserError when the record is damaged or another run's, or the file missing or another one.
    """
    path = Path(path)
    place = path.with_name("record.json")
    if not place.is_file():
        return False
    record, _ = read_record(place)
    if key is not None and record.key != key:
        fix = rerun(record.kind, key)
        raise UserError(f"{place}: is of {record.kind} {record.key}, not of {key}. Fix: {fix}")
    if path.name not in record.files:
        return False
    if problem := record_problem(record, path.name, path):
        raise UserError(f"{path}: {problem}. Fix: {rerun(record.kind, record.key)}")
    return True


def record_problem(record: Record, name: str, path: Path) -> str | None:
    """Return what is wrong with a file of a record; None for nothing."""
    if not path.is_file():
        return "is missing, but record.json names it"
    if sha256_of_file(path) != record.files[name]:
        return "is not the file that record.json names (another sha256)"
    return None


def rerun(kind: str, key: str) -> str:
    """Return the command that makes the outputs of a stage and their record again."""
    if kind == "data":
        version, _, cache_id = key.partition("/")
        freeze = f"`clip4vla data freeze {version} {cache_id}`"
        return f"run `clip4vla data verify {version}`, then {freeze}"
    if kind == "tables":
        return "run `clip4vla tables page --out results`"
    command = "train" if kind in ("pretrain", "finetune") else kind
    return f"run `clip4vla {command} {key}` again"


def warn_unverified(path: str | Path, count: int = 1) -> None:
    """Print that a file, and so many like it, cannot be checked."""
    more = f" and {count - 1} more" if count > 1 else ""
    print(
        f"clip4vla: warning: {path}{more}: not checked: no record.json beside it names its sha256",
        file=sys.stderr,
        flush=True,
    )

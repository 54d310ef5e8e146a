"""Verify the outputs of a stage against its record.json when another stage reads them.

Every stage writes the sha256 of its outputs into its record last. Outputs of older versions, and
files that were copied without their record, cannot be verified: they are read with a warning.
"""

from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.common.log import log
from clip4vla.config.layout import remake
from clip4vla.tracking.record import Record, read_record


def check_recorded(path: str | Path, key: str | None = None) -> bool:
    """Return whether the record of an output confirms its sha256; False: no record names it.

    `path`: beside its record.json. `key`: of the run that it must belong to; None: any.
    Raises UserError when the record is damaged or another run's, or the file is missing or changed.
    """
    path = Path(path)
    place = path.with_name("record.json")
    if not place.is_file():
        return False
    record, _ = read_record(place)
    if key is not None and record.key != key:
        raise UserError(
            f"{place}: is of {record.kind} {record.key}, not of {key}. Fix: {remake(place)}"
        )
    if path.name not in record.files:
        return False
    if problem := record_problem(record, path.name, path):
        raise UserError(f"{path}: {problem}. Fix: {remake(path)}")
    return True


def record_problem(record: Record, name: str, path: Path) -> str | None:
    """Return the problem of a file of a record; None if it is unchanged."""
    if not path.is_file():
        return "missing, although record.json names it"
    if sha256_of_file(path) != record.files[name]:
        return "its sha256 differs from the one in record.json"
    return None


def warn_unverified(path: str | Path, count: int = 1) -> None:
    """Warn that a file, and `count` - 1 others, cannot be verified."""
    more = f" and {count - 1} more" if count > 1 else ""
    log.warning(f"{path}{more}: not verified: no record.json beside it has its sha256")

"""Share one server among many jobs: a limit on parallel downloads, and the server's refusals.

The slots are locks on files in a folder that all jobs see, so they hold over every job of every
Snakemake run in this working folder. The kernel frees the slot of a job that was killed.
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, write_json
from clip4vla.common.log import log

POLL_SECONDS = 1.0


def _until(path: Path) -> float:
    """Return when a server may be asked again. UserError for a damaged note."""
    try:
        return float(read_json(path)["until"])
    except FileNotFoundError:  # another job has just removed it
        return 0.0
    except (ValueError, LookupError, TypeError):
        raise UserError(
            f"{path}: corrupt: the time until which the server refuses is missing. Fix: "
            "delete it; the server is then asked at once"
        ) from None


class Server:
    """The host of an `address`, with its state shared in `folder` (None: for this job only)."""

    def __init__(self, address: str, folder: str | Path | None):
        host = urlsplit(address).netloc.rpartition("@")[2]
        self.folder = Path(folder, quote(host, safe="")) if folder else None
        self._until = 0.0

    @contextlib.contextmanager
    def slot(self, slots: int) -> Iterator[None]:
        """Hold one of `slots` slots, waiting until one is free."""
        if self.folder is None:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        logged = False
        while True:
            for number in range(slots):
                with open(self.folder / f"slot-{number}", "a") as stream:
                    try:
                        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    yield
                    return
            if not logged:
                log.info(f"{self.folder}: all {slots} slots are taken; waiting")
                logged = True
            time.sleep(POLL_SECONDS)

    def refused_until(self) -> float:
        """Return when the server may be asked again, in seconds since 1970; 0 if at any time."""
        if self.folder is not None and (self.folder / "refused.json").is_file():
            self._until = max(self._until, _until(self.folder / "refused.json"))
        return self._until

    def refuse(self, until: float) -> None:
        """Note for all jobs that the server is to be left alone until then."""
        self._until = max(until, self.refused_until())
        if self.folder is not None:
            write_json(self.folder / "refused.json", {"until": self._until})

    def forgive(self) -> None:
        """Forget that the server refused."""
        self._until = 0.0
        if self.folder is not None:
            (self.folder / "refused.json").unlink(missing_ok=True)

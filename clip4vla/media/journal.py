"""The journal of a shard's downloads: one line per attempt. A kill loses at most one clip."""

import json
import os
import shutil
from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.common.files import canonical_json, whole_file, write_text
from clip4vla.media.status import FetchStatus, Retry

MAX_ATTEMPTS = 3  # at a stretch, for statuses that are worth trying again at once


class Journal:
    """The file journal.jsonl in a folder, with one record per attempt.

    Keys: clip_id, request, fetch, detail, again (seconds since 1970 before which the clip must not
    be requested again), file, bytes, sha256, tool; final (optional): another attempt cannot help,
    whatever the status. A record is on the disk before the next clip begins. A kill may leave a
    truncated last line; it is ignored, and removed before the next record is added. Records of
    another request (other address or times), and of files that are missing from the folder or have
    another size, are ignored. Reading changes nothing, so any process may read while the owner of
    the folder writes. Raises UserError for an invalid line.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / "journal.jsonl"
        self._records: dict[tuple[str, str], list[dict]] = {}
        self._whole: int | None = None  # bytes before a truncated last line, if there is one
        if self.path.exists():
            self._read()

    def add(self, record: dict) -> None:
        """Append one attempt and wait until the disk has it. For the owner of the folder."""
        if self._whole is not None:
            os.truncate(self.path, self._whole)
            self._whole = None
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(canonical_json(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._keep(record)

    def last(self, clip_id: str, request: str) -> dict | None:
        """Return the last attempt, or None if there was none or its file is lost."""
        tried = self._records.get((clip_id, request))
        if not tried or (tried[-1]["fetch"] == FetchStatus.OK and not self._has(tried[-1])):
            return None
        return tried[-1]

    def settled(self, clip_id: str, request: str, now: float) -> bool:
        """Return whether no attempt is due for a clip at this moment."""
        last = self.last(clip_id, request)
        if last is None:
            return False
        retry = _retry(last)
        if retry == "now" and len(self._records[clip_id, request]) % MAX_ATTEMPTS:
            return False
        return retry == "never" or now < last["again"]

    def attempts(self) -> dict[str, dict]:
        """Return the last record of every clip, of any request."""
        return {tried[-1]["clip_id"]: tried[-1] for tried in self._records.values()}

    def carry_over(self, earlier: "Journal", clip_id: str, request: str) -> None:
        """Take the file, or the final refusal, of an earlier pass, unless this one has its own.

        The file is a hard link where the disk allows it, because media files never change.
        """
        record = earlier.last(clip_id, request)
        if (clip_id, request) in self._records or record is None:
            return
        if record["fetch"] == FetchStatus.OK:
            link_or_copy(earlier.folder / record["file"], self.folder / record["file"])
        elif _retry(record) != "never":
            return
        self.add(record)

    def forget(self, fetch: FetchStatus) -> None:
        """Remove all records of one status, as if those attempts had not been made."""
        records = [r for tried in self._records.values() for r in tried]
        self._rewrite([record for record in records if record["fetch"] != fetch])

    def end_pauses(self) -> None:
        """End the pause of every clip, so that it may be requested at once."""
        records = [r for tried in self._records.values() for r in tried]
        self._rewrite([record | {"again": 0} for record in records])

    def _rewrite(self, records: list[dict]) -> None:
        write_text(self.path, "".join(canonical_json(record) + "\n" for record in records))
        self._records, self._whole = {}, None
        for record in records:
            self._keep(record)

    def _has(self, record: dict) -> bool:
        path = self.folder / record["file"]
        return path.is_file() and path.stat().st_size == record["bytes"]

    def _keep(self, record: dict) -> None:
        self._records.setdefault((record["clip_id"], record["request"]), []).append(record)

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            self._whole = len(data) - len(torn)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                FetchStatus(record["fetch"])
                self._keep(record)
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{self.path}, line {number}: not a record of an attempt. Fix: delete this "
                    "line; only its clip is requested again"
                ) from None


def _retry(record: dict) -> Retry:
    return "never" if record.get("final") else FetchStatus(record["fetch"]).retry


def link_or_copy(source: Path, target: Path) -> None:
    """Link or copy `source` to `target`, atomically, replacing an existing file."""
    with whole_file(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

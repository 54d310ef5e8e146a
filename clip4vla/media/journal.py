"""The journal of a shard's downloads: one line per attempt; kill -9 loses at most one clip."""

import json
import os
from pathlib import Path

from clip4vla.files import canonical_json, write_text
from clip4vla.media.status import FetchStatus

MAX_ATTEMPTS = 3  # in all, for statuses that are worth trying again at once


class Journal:
    """journal.jsonl in a folder: {clip_id, request, fetch, detail, file, bytes, sha256, tool}.

    A record is on the disk before the next clip begins. A torn last line, which a kill may leave,
    is cut off; records of another request (other address or times) and records of files that are
    gone from the folder or have another size count for nothing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "journal.jsonl"
        self._records: dict[tuple[str, str], list[dict]] = {}
        if self.path.exists():
            self._read()

    def add(self, record: dict) -> None:
        """Append one attempt and wait until the disk has it."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(canonical_json(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._keep(record)

    def settled(self, clip_id: str, request: str) -> dict | None:
        """The final record of a clip, or None while it is worth another attempt."""
        tried = self._records.get((clip_id, request), [])
        if not tried:
            return None
        last = tried[-1]
        retry = FetchStatus(last["fetch"]).retry
        if retry == "now" and len(tried) < MAX_ATTEMPTS:
            return None
        if last["fetch"] == FetchStatus.OK and not self._has(last):
            return None
        return last

    def forget(self, fetch: FetchStatus) -> None:
        """Strike all records of one status, as if those attempts had not been made."""
        kept = [r for tried in self._records.values() for r in tried if r["fetch"] != fetch]
        write_text(self.path, "".join(canonical_json(record) + "\n" for record in kept))
        self._records = {}
        for record in kept:
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
            os.truncate(self.path, len(data) - len(torn))
        for line in whole.splitlines():
            record = json.loads(line)
            FetchStatus(record["fetch"])
            self._keep(record)

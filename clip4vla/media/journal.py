"""The journal of a shard's downloads: one line per attempt; kill -9 loses at most one clip."""

import json
import os
import shutil
from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.common.files import canonical_json, whole_file, write_text
from clip4vla.media.status import FetchStatus, Retry

MAX_ATTEMPTS = 3  # at a stretch, for statuses that are worth trying again at once


class Journal:
    """journal.jsonl in a folder, one record an attempt.

    Keys: clip_id, request, fetch, detail, again (not before this moment, in seconds since 1970, the
    clip may be asked for again), file, bytes, sha256, tool; final (optional): asking again cannot
    help, whatever the status says. A record is on the disk before the next
    clip begins. A torn last line, which a kill may leave, counts for nothing and is cut off before
    the next record is added; so do records of another request (other address or times) and of files
    that are gone from the folder or have another size. Reading changes nothing, so anybody may read
    while the owner of the folder writes. Raises UserError for a broken line.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / "journal.jsonl"
        self._records: dict[tuple[str, str], list[dict]] = {}
        self._whole: int | None = None  # bytes of whole lines, where a torn one follows them
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
        """The last attempt, or None if there was none or the file that it brought is lost."""
        tried = self._records.get((clip_id, request))
        if not tried or (tried[-1]["fetch"] == FetchStatus.OK and not self._has(tried[-1])):
            return None
        return tried[-1]

    def settled(self, clip_id: str, request: str, now: float) -> bool:
        """Whether nothing is to be done for a clip at this moment."""
        last = self.last(clip_id, request)
        if last is None:
            return False
        retry = _retry(last)
        if retry == "now" and len(self._records[clip_id, request]) % MAX_ATTEMPTS:
            return False
        return retry == "never" or now < last["again"]

    def attempts(self) -> dict[str, dict]:
        """The last record of every clip, whatever was asked for."""
        return {tried[-1]["clip_id"]: tried[-1] for tried in self._records.values()}

    def carry_over(self, earlier: "Journal", clip_id: str, request: str) -> None:
        """Take the file, or the final refusal, of an earlier pass, unless this one has its own.

        The file is shared (a hard link) where the disk allows it: media files never change.
        """
        found = earlier.last(clip_id, request)
        if (clip_id, request) in self._records or found is None:
            return
        if found["fetch"] == FetchStatus.OK:
            link_or_copy(earlier.folder / found["file"], self.folder / found["file"])
        elif _retry(found) != "never":
            return
        self.add(found)

    def forget(self, fetch: FetchStatus) -> None:
        """Strike all records of one status, as if those attempts had not been made."""
        records = [r for tried in self._records.values() for r in tried]
        self._rewrite([record for record in records if record["fetch"] != fetch])

    def end_pauses(self) -> None:
        """Let every clip that is not settled for good be asked for at once."""
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
                    f"{self.path}, line {number} is no record of an attempt: delete this line; "
                    "only its clip is asked for again"
                ) from None


def _retry(record: dict) -> Retry:
    return "never" if record.get("final") else FetchStatus(record["fetch"]).retry


def link_or_copy(source: Path, target: Path) -> None:
    """`target` with the content of `source`, whole or not at all; over what is there."""
    with whole_file(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

"""Fetch a shard: one row for every planned clip. It can be interrupted at any time and resumes."""

import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import pandas as pd

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import canonical_json, sha256_of, sha256_of_file, sole_owner
from clip4vla.common.progress import track
from clip4vla.config.data import Dataset
from clip4vla.datasets.collect import check_names
from clip4vla.media.causes import is_of_server, local_failure, retry_after, was_answered
from clip4vla.media.download import Downloader
from clip4vla.media.journal import Journal
from clip4vla.media.local import fetch_local
from clip4vla.media.planned import PlannedClip, planned_clips
from clip4vla.media.server import Server
from clip4vla.media.status import REFUSALS, FetchStatus, classify, with_warnings
from clip4vla.media.ytdlp import TOOL

FETCH_COLUMNS = {
    "clip_id": "string",
    "fetch": "string",
    "detail": "string",
    "path": "string",
    "bytes": "int64",
    "sha256": "string",
    "tool": "string",
}
YOUTUBE = "https://www.youtube.com"
BACKOFF_SECONDS = (0.0, 1.0, 4.0)  # before the first, second and third round of attempts
SHORT_SECONDS = 60.0  # the longest pause to wait for; longer ones are for a later run
OUTAGE = 20  # network failures in a row that mean that the network is down
BREAKER = 5  # bot checks or rate limits in a row after which the server is left alone
_UNASKED = "the server refused us"


def fetch_shard(
    plan_rows: pd.DataFrame,
    dataset: Dataset,
    folder: str | Path,
    *,
    network: str | Path | None = None,
    earlier: str | Path | None = None,
    frozen: bool = False,
) -> pd.DataFrame:
    """Fetch the clips of one shard into its media `folder`; one row (FETCH_COLUMNS) per plan row.

    The table is sorted by clip_id; `path` is "" and `bytes` 0 where there is no file. Clips that
    were fetched before, by a run that was killed or in the media folder of an `earlier` pass, are
    not fetched again. Clips with `retry: now` statuses get three attempts, those with `retry:
    later` another one after the pause that the server or `rate.retry_hours` asks for; in a `frozen`
    version only lost files are requested. `network` is the folder in which all jobs share the state
    of each server. Raises RetryLater if the server cannot be reached (no clip gets a status for
    that), UserError for an invalid source in the config, OSError for a full disk.
    """
    folder = Path(folder)
    check_names(plan_rows.clip_id, plan_rows.source_id, plan_rows.file)
    clips = planned_clips(plan_rows)
    _check_source(dataset)
    with sole_owner(folder):
        shutil.rmtree(folder / ".part", ignore_errors=True)
        if dataset.source == "local":
            assert dataset.media is not None  # _check_source
            rows = [
                fetch_local(clip, dataset.media, folder, cut_longer=dataset.cut_longer)
                for clip in track(clips, "fetch")
            ]
        else:
            rows = _Remote(dataset, folder, network, frozen).fetch(clips, earlier)
    return pd.DataFrame(rows, columns=list(FETCH_COLUMNS)).astype(FETCH_COLUMNS)


@dataclass
class _Outcome:
    """The result of one attempt: a file, or the time after which another attempt makes sense."""

    status: FetchStatus
    detail: str = ""
    path: Path | None = None
    again: float = 0.0
    final: bool = False


class _Remote:
    """The rounds of attempts to fetch clips from a server, recorded in the journal."""

    def __init__(self, dataset: Dataset, folder: Path, network: str | Path | None, frozen: bool):
        self.dataset, self.folder, self.frozen = dataset, folder, frozen
        self.journal = Journal(folder)
        self.server = server_of(dataset, network)
        self.failing, self.refused = 0, 0  # in a row: network failures, refusals of this machine
        self.answered: bool | None = None  # None: no request yet

    def fetch(self, clips: list[PlannedClip], earlier: str | Path | None) -> list[dict[str, Any]]:
        if earlier is not None:
            before = Journal(earlier)
            for clip in clips:
                self.journal.carry_over(before, clip.clip_id, self._request(clip))
        for pause in BACKOFF_SECONDS:
            waiting = [clip for clip in clips if self._is_open(clip)]
            if not waiting:
                break
            with self.server.slot(self.dataset.rate.slots):
                time.sleep(pause)
                self._round(self._in_order(waiting))
        return self._table(clips)

    def _table(self, clips: list[PlannedClip]) -> list[dict[str, Any]]:
        """Return the rows of the last attempts. RetryLater if the server never answered."""
        records = []
        for clip in clips:
            record = self._last(clip)
            assert record is not None, f"{clip.clip_id}: no attempt in {self.journal.path}"
            records.append(record)
        transient = [record["fetch"] == FetchStatus.NETWORK_TRANSIENT for record in records]
        if records and all(transient) and self.answered is False:
            self._outage(records[0]["detail"])
        return [self._table_row(record) for record in records]

    def _last(self, clip: PlannedClip) -> dict[str, Any] | None:
        return self.journal.last(clip.clip_id, self._request(clip))

    def _in_order(self, waiting: list[PlannedClip]) -> list[PlannedClip]:
        """Sort clips that were refused before to the end: five in a row would delay the others."""

        def key(clip: PlannedClip) -> tuple[bool, str, str]:
            last = self._last(clip)
            refused = last is not None and last["detail"] != _UNASKED
            return refused, clip.source_id, clip.clip_id

        return sorted(waiting, key=key)

    def _is_open(self, clip: PlannedClip) -> bool:
        if self.frozen:
            return self._last(clip) is None
        now = time.time() + SHORT_SECONDS
        return not self.journal.settled(clip.clip_id, self._request(clip), now)

    def _round(self, waiting: list[PlannedClip]) -> None:
        with Downloader(self.folder, self.dataset) as downloader:
            for clip in track(waiting, "fetch"):
                until = self.server.refused_until()
                if until - time.time() > SHORT_SECONDS:
                    outcome = _Outcome(FetchStatus.RATE_LIMITED, _UNASKED, again=until)
                else:
                    time.sleep(max(0.0, until - time.time()))
                    outcome = self._attempt(downloader, clip)
                path = outcome.path
                self.journal.add(
                    {
                        "clip_id": clip.clip_id,
                        "request": self._request(clip),
                        "fetch": outcome.status,
                        "detail": outcome.detail,
                        "again": math.ceil(outcome.again),
                        "file": path.name if path else "",
                        "bytes": path.stat().st_size if path else 0,
                        "sha256": sha256_of_file(path) if path else "",
                        "tool": TOOL,
                        **(
                            {"final": True}
                            if outcome.final and outcome.status.retry != "never"
                            else {}
                        ),
                    }
                )

    def _attempt(self, downloader: Downloader, clip: PlannedClip) -> _Outcome:
        try:
            part = downloader.get(self._address(clip), clip.clip_id, clip.times)
        except Exception as error:  # yt-dlp and its extractors raise anything: all become a status
            ours = local_failure(error)
            if ours is not None:
                raise ours from None
            self.answered = bool(self.answered) or was_answered(error)
            return self._failed(error, downloader.warnings)
        self.failing, self.refused, self.answered = 0, 0, True
        final = self.folder / part.name
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, final)
        return _Outcome(FetchStatus.OK, with_warnings("", downloader.warnings), path=final)

    def _failed(self, error: Exception, warnings: list[str]) -> _Outcome:
        status, detail = classify(error, warnings)
        about_us = status in (*REFUSALS, FetchStatus.NETWORK_TRANSIENT)  # not about one clip
        after = retry_after(error) if about_us else None
        down = status == FetchStatus.NETWORK_TRANSIENT and is_of_server(error)
        self.failing = self.failing + 1 if down else 0
        self.refused = self.refused + 1 if status in REFUSALS else 0
        if self.failing >= OUTAGE:
            self._outage(detail)
        pause = 3600 * self.dataset.rate.retry_hours if after is None else after
        again = time.time() + pause
        if after is not None or self.refused >= BREAKER:
            self.server.refuse(again)
        final = getattr(error, "final", False)
        closed = final or status.retry == "never"
        return _Outcome(status, detail, again=0.0 if closed else again, final=final)

    def _outage(self, detail: str) -> NoReturn:
        self.journal.forget(FetchStatus.NETWORK_TRANSIENT)
        raise RetryLater(
            f"{self.folder}: the server cannot be reached ({detail}). "
            "Fix: run the same command again when it can"
        )

    def _address(self, clip: PlannedClip) -> str:
        if self.dataset.source == "youtube":
            return f"{YOUTUBE}/watch?v={quote(clip.source_id, safe='')}"
        assert self.dataset.url is not None  # _check_source
        url = self.dataset.url.replace("{source_id}", quote(clip.source_id, safe=""))
        return url.replace("{file}", quote(clip.file, safe="/"))

    def _request(self, clip: PlannedClip) -> str:
        """Return the hash of a clip's request: its address and times."""
        start, end = clip.times or (None, None)
        return sha256_of(canonical_json([self._address(clip), start, end]))[:16]

    def _table_row(self, record: dict[str, Any]) -> dict[str, Any]:
        path = str(self.folder / record["file"]) if record["file"] else ""
        return {name: record[name] for name in FETCH_COLUMNS if name != "path"} | {"path": path}


def server_of(dataset: Dataset, network: str | Path | None) -> Server:
    """Return the server that a dataset's media come from."""
    return Server((dataset.url or "") if dataset.source == "http" else YOUTUBE, network)


def _check_source(dataset: Dataset) -> None:
    if dataset.source == "local":
        if dataset.media is None:
            raise UserError(
                "media: not set, but source is local. Fix: name the folder of the files"
            )
        if not dataset.media.is_dir():
            raise UserError(f"media: no folder {dataset.media}. Fix: name the folder of the files")
    elif dataset.source == "http":
        if not dataset.url or not any(part in dataset.url for part in ("{file}", "{source_id}")):
            raise UserError(
                f"url: invalid {dataset.url!r} for source http. "
                "Fix: give an address with {file} or {source_id} in it"
            )
        if not dataset.url.startswith(("http://", "https://")):
            raise UserError(f"url: invalid {dataset.url!r}. Fix: begin it with http:// or https://")
    elif dataset.cookies and not dataset.cookies.is_file():
        raise UserError(f"cookies: no file {dataset.cookies}. Fix: export one, or leave it out")

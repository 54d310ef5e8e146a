"""Fetching a shard: every planned clip ends as one row, however often the work is interrupted."""

import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
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
SHORT_SECONDS = 60.0  # a server that says "in a minute" is waited for; longer is for a later run
OUTAGE = 20  # network failures in a row: the network is down, not the clips
BREAKER = 5  # bot checks or rate limits in a row: the server wants us to stop
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

    The table is sorted by clip_id; `path` is "" and `bytes` 0 where there is no file. What was
    fetched before, by a run that was killed or in the media folder of an `earlier` pass, is not
    fetched again. Clips with `retry: now` statuses get three attempts, those with `retry: later`
    another one when the pause that the server or `rate.retry_hours` asks for is over; in a `frozen`
    version nothing but lost files is asked for. `network` is the folder of what all jobs know of
    each server. Raises RetryLater if the server cannot be reached (no clip is blamed for that),
    UserError for a source that is set up wrongly, OSError for a full disk.
    """
    folder = Path(folder)
    check_names(plan_rows.clip_id, plan_rows.source_id, plan_rows.file)
    rows = sorted((_plain(row) for row in plan_rows.itertuples()), key=lambda row: row.clip_id)
    _check_source(dataset)
    with sole_owner(folder):
        shutil.rmtree(folder / ".part", ignore_errors=True)
        if dataset.source == "local":
            found = [
                fetch_local(row, dataset.media, folder, cut_longer=dataset.cut_longer)
                for row in track(rows, "fetch")
            ]
        else:
            found = _Remote(dataset, folder, network, frozen).fetch(rows, earlier)
    return pd.DataFrame(found, columns=list(FETCH_COLUMNS)).astype(FETCH_COLUMNS)


@dataclass
class _Outcome:
    """What one attempt brought: a file, or the moment from which on another makes sense."""

    status: FetchStatus
    detail: str = ""
    path: Path | None = None
    again: float = 0.0
    final: bool = False


class _Remote:
    """The rounds of attempts on a server, with the journal between them."""

    def __init__(self, dataset: Dataset, folder: Path, network: str | Path | None, frozen: bool):
        self.dataset, self.folder, self.frozen = dataset, folder, frozen
        self.journal = Journal(folder)
        self.server = server_of(dataset, network)
        self.failing, self.refused = 0, 0  # in a row: network failures, refusals to talk to us
        self.answered: bool | None = None  # None: nobody was asked

    def fetch(self, rows: list, earlier: str | Path | None) -> list[dict]:
        asked = {row.clip_id: self._request(row) for row in rows}
        if earlier is not None:
            before = Journal(earlier)
            for row in rows:
                self.journal.carry_over(before, row.clip_id, asked[row.clip_id])
        for pause in BACKOFF_SECONDS:
            waiting = [row for row in rows if self._is_open(row.clip_id, asked[row.clip_id])]
            if not waiting:
                break
            with self.server.slot(self.dataset.rate.slots):
                time.sleep(pause)
                self._round(self._in_order(waiting, asked), asked)
        final = [self.journal.last(row.clip_id, asked[row.clip_id]) for row in rows]
        transient = [record["fetch"] == FetchStatus.NETWORK_TRANSIENT for record in final]
        if final and all(transient) and self.answered is False:
            self._outage(final[0]["detail"])
        return [self._table_row(record) for record in final]

    def _in_order(self, waiting: list, asked: dict[str, str]) -> list:
        """Clips refused before come last: five of them in a row would keep the others waiting."""

        def key(row):
            last = self.journal.last(row.clip_id, asked[row.clip_id])
            refused = last is not None and last["detail"] != _UNASKED
            return refused, row.source_id, row.clip_id

        return sorted(waiting, key=key)

    def _is_open(self, clip_id: str, request: str) -> bool:
        if self.frozen:
            return self.journal.last(clip_id, request) is None
        return not self.journal.settled(clip_id, request, time.time() + SHORT_SECONDS)

    def _round(self, waiting: list, asked: dict[str, str]) -> None:
        with Downloader(self.folder, self.dataset) as downloader:
            for row in track(waiting, "fetch"):
                until = self.server.refused_until()
                if until - time.time() > SHORT_SECONDS:
                    outcome = _Outcome(FetchStatus.RATE_LIMITED, _UNASKED, again=until)
                else:
                    time.sleep(max(0.0, until - time.time()))
                    outcome = self._attempt(downloader, row)
                path = outcome.path
                self.journal.add(
                    {
                        "clip_id": row.clip_id,
                        "request": asked[row.clip_id],
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

    def _attempt(self, downloader: Downloader, row) -> "_Outcome":
        try:
            part = downloader.get(self._address(row), row.clip_id, row.start, row.end)
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

    def _failed(self, error: Exception, warnings: list[str]) -> "_Outcome":
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

    def _outage(self, detail: str) -> None:
        self.journal.forget(FetchStatus.NETWORK_TRANSIENT)
        raise RetryLater(
            f"{self.folder}: the server cannot be reached ({detail}): "
            "run the same command again when it can"
        )

    def _address(self, row) -> str:
        if self.dataset.source == "youtube":
            return f"{YOUTUBE}/watch?v={quote(row.source_id, safe='')}"
        url = self.dataset.url.replace("{source_id}", quote(row.source_id, safe=""))
        return url.replace("{file}", quote(row.file, safe="/"))

    def _request(self, row) -> str:
        return sha256_of(canonical_json([self._address(row), row.start, row.end]))[:16]

    def _table_row(self, record: dict) -> dict:
        path = str(self.folder / record["file"]) if record["file"] else ""
        return {name: record[name] for name in FETCH_COLUMNS if name != "path"} | {"path": path}


def server_of(dataset: Dataset, network: str | Path | None) -> Server:
    """The server that a dataset's media come from."""
    return Server(dataset.url if dataset.source == "http" else YOUTUBE, network)


def _plain(row) -> SimpleNamespace:
    """A plan row with None for a missing time."""
    times = ("start", "end", "annotated_start", "annotated_end")
    known = {time: getattr(row, time, math.nan) for time in times}  # old plans lack the annotated
    return SimpleNamespace(
        clip_id=row.clip_id,
        source_id=row.source_id,
        file=row.file,
        **{time: None if math.isnan(seconds) else seconds for time, seconds in known.items()},
    )


def _check_source(dataset: Dataset) -> None:
    if dataset.source == "local":
        if dataset.media is None:
            raise UserError("source is local but `media` is not set: name the folder of the files")
        if not dataset.media.is_dir():
            raise UserError(f"{dataset.media} is no folder: set `media` to the folder of the files")
    elif dataset.source == "http":
        if not dataset.url or not any(part in dataset.url for part in ("{file}", "{source_id}")):
            raise UserError(
                f"source is http but url is {dataset.url!r}: "
                "give an address with {file} or {source_id} in it"
            )
        if not dataset.url.startswith(("http://", "https://")):
            raise UserError(f"url {dataset.url!r} must begin with http:// or https://")
    elif dataset.cookies and not dataset.cookies.is_file():
        raise UserError(f"cookies: {dataset.cookies} is no file: export one or leave it out")

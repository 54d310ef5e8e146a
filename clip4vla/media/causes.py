"""The causes of a failed fetch: underlying errors, the server's answer, and which side failed."""

import errno
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead, RemoteDisconnected

_HTTP = re.compile(r"HTTP Error (\d{3})", re.I)
_OURS_TO_RAISE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EMFILE),
)
LONGEST_REFUSAL = 7 * 24 * 3600.0  # seconds; a longer Retry-After is shortened to this
FFMPEG_HTTP = 8  # ffmpeg's exit code for any HTTP status that is an error
_FFMPEG_CODE = re.compile(r"ffmpeg exited with code (-?\d+)", re.I)


def local_failure(error: BaseException) -> OSError | None:
    """Return the error of this machine's disk or permissions that caused a failed fetch, or None.

    The user must fix such an error; it must not become the status of a clip.
    """
    for link in causes(error):
        if isinstance(link, OSError) and link.errno in _OURS_TO_RAISE:
            return link
    for number in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(number) in str(error):
            return OSError(number, os.strerror(number))
    code = ffmpeg_code(error)
    return None if code is None else ffmpeg_failure(code)


def ffmpeg_code(error: BaseException) -> int | None:
    """Return the exit code of ffmpeg in the message of a failed fetch, or None."""
    code = _FFMPEG_CODE.search(str(error))
    return int(code[1]) if code else None


def ffmpeg_failure(code: int) -> OSError | None:
    """Return the same for ffmpeg's exit code: 256 - errno, or the signal of a file size limit."""
    number = errno.EFBIG if code == -signal.SIGXFSZ else 256 - code
    return OSError(number, os.strerror(number)) if number in _OURS_TO_RAISE else None


def retry_after(error: BaseException) -> float | None:
    """Return the seconds of a server's Retry-After, or None."""
    for link in causes(error):
        headers = getattr(getattr(link, "response", None), "headers", None)
        value = headers.get("Retry-After") if headers is not None else None
        if value is None:
            continue
        try:
            seconds = float(value)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                return None
        return min(max(0.0, seconds), LONGEST_REFUSAL) if math.isfinite(seconds) else None
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all its causes, each once (yt-dlp keeps causes in fields of its own)."""
    waiting: list[object] = [error]
    yielded: set[int] = set()
    while waiting:
        link = waiting.pop(0)
        if not isinstance(link, BaseException) or id(link) in yielded:
            continue
        yielded.add(id(link))
        yield link
        exc_info = getattr(link, "exc_info", None)
        waiting += [exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) == 3 else None]
        waiting += [getattr(link, "cause", None), link.__cause__, link.__context__]


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status, 300 to 599, of a failed fetch, or None if no server answered."""
    chain = list(causes(error))
    for link in chain:
        status = getattr(link, "status", None)
        if isinstance(status, int) and 300 <= status < 600:
            return status
    match = _HTTP.search("\n".join(map(str, chain)))
    return int(match[1]) if match else None


def was_answered(error: BaseException) -> bool:
    """Return whether a server answered a failed fetch with a status or the beginning of data."""
    # ffmpeg is only started after an answer.
    begun = ("[download]", "data blocks", "not done in", "broke off", "ffmpeg exited")
    return http_status(error) is not None or any(words in str(error) for words in begun)


def is_of_server(error: BaseException) -> bool:
    """Return whether a failure may concern all clips: no answer in time, or a status of 5xx.

    A download that breaks off after its beginning may concern its clip only.
    """
    status = http_status(error)
    stalled = "not done in" in str(error)
    return status >= 500 if status is not None else stalled or not was_answered(error)


def is_no_http(chain: list[BaseException]) -> bool:
    """Return whether a server's answer was not valid HTTP, which another attempt cannot change.

    A connection that ends early does not count, although Python's exception for it is one of these.
    """
    early = (RemoteDisconnected, IncompleteRead)
    return any(isinstance(one, HTTPException) and not isinstance(one, early) for one in chain)

"""What became of a clip: three closed enums, when to try again, and the reading of errors.

The taxonomy is that of engineering D.3. A missing clip is a row with a status, never an exception.
"""

import errno
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Literal

Retry = Literal["now", "later", "never"]


class FetchStatus(StrEnum):
    """What became of the attempt to get a clip's file."""

    OK = "ok"
    GONE = "gone"
    PRIVATE = "private"
    GEO_BLOCKED = "geo_blocked"
    AGE_RESTRICTED = "age_restricted"
    LOGIN_OR_BOT_CHECK = "login_or_bot_check"
    RATE_LIMITED = "rate_limited"
    NETWORK_TRANSIENT = "network_transient"
    FORMAT_UNAVAILABLE = "format_unavailable"
    CUT_FAILED = "cut_failed"
    UNKNOWN = "unknown"

    @property
    def retry(self) -> Retry:
        """now: up to three attempts in this version; later: with a higher fetch_pass; or never."""
        return _RETRY[self]


class VideoStatus(StrEnum):
    """What decoding the pictures gave; `ok` means at least one frame."""

    OK = "ok"
    NO_VIDEO_STREAM = "no_video_stream"
    DECODE_ERROR = "decode_error"
    TOO_SHORT = "too_short"
    NOT_FETCHED = "not_fetched"


class AudioStatus(StrEnum):
    """What decoding the sound gave; all but `ok` and `not_fetched` are silent (facts 10.1)."""

    OK = "ok"
    NO_AUDIO_STREAM = "no_audio_stream"
    DIGITAL_SILENCE = "digital_silence"
    DECODE_ERROR = "decode_error"
    NOT_FETCHED = "not_fetched"


_RETRY: dict[FetchStatus, Retry] = {
    FetchStatus.OK: "never",
    FetchStatus.GONE: "never",
    FetchStatus.PRIVATE: "never",
    FetchStatus.GEO_BLOCKED: "never",
    FetchStatus.AGE_RESTRICTED: "later",
    FetchStatus.LOGIN_OR_BOT_CHECK: "later",
    FetchStatus.RATE_LIMITED: "later",
    FetchStatus.NETWORK_TRANSIENT: "now",
    FetchStatus.FORMAT_UNAVAILABLE: "later",
    FetchStatus.CUT_FAILED: "now",
    FetchStatus.UNKNOWN: "later",
}

# The first pattern that is found decides; the messages are those of yt-dlp and of YouTube.
_Messages = tuple[tuple[FetchStatus, str], ...]
_CLEARER_THAN_A_NUMBER: _Messages = (  # a server also says 400 or 403 in these cases
    (
        FetchStatus.PRIVATE,
        r"private video|video is private|is private|members.only|join this channel"
        r"|available to this channel's members",
    ),
    (
        FetchStatus.AGE_RESTRICTED,
        r"confirm your age|age.restricted|inappropriate for some users",
    ),
    (
        FetchStatus.RATE_LIMITED,
        r"too many requests|rate.limit|try again later|throttl"
        r"|unable to download video data: HTTP Error 403",
    ),
    (
        FetchStatus.LOGIN_OR_BOT_CHECK,
        r"not a bot|login required|log in|sign in|account cookies|captcha|anti-bot",
    ),
)
_OTHER_MESSAGES: _Messages = (
    (
        FetchStatus.GEO_BLOCKED,
        r"(in|from) your (country|location|region)|geo.?restrict|geo.?block",
    ),
    (
        FetchStatus.FORMAT_UNAVAILABLE,
        r"requested format|unsupported url|no (video )?formats|unsafe file extension"
        r"|premieres in|live event|live stream|no media file|\bdrm\b",
    ),
    (
        FetchStatus.GONE,
        r"video (is )?(unavailable|not available)|has been removed|been removed|was removed"
        r"|(no longer|isn.t|not) available|account .*terminated|been terminated|copyright"
        r"|does not exist|violat|been deleted",
    ),
    (FetchStatus.CUT_FAILED, r"ffmpeg exited|ffmpeg could not|cut failed|postprocess"),
    (
        FetchStatus.NETWORK_TRANSIENT,
        r"timed? ?out|connection|unreachable|name resolution|name or service|getaddrinfo"
        r"|resolve host|remote end closed|incomplete ?read|more expected|did not get any data"
        r"|bytes, expected|temporar|transport ?error|ssl|network|broken pipe|protocol error"
        r"|unable to connect",
    ),
)
_HTTP = re.compile(r"HTTP Error (\d{3})", re.I)
_NOISE = re.compile(
    r"^\s*(?:\x1b\[[0-9;]*m)*ERROR:\s*|\x1b\[[0-9;]*m|\s*\(caused by .*"
    r"|; please report this issue.*|;? ?Confirm you are on the latest.*"
    r"|\s?at 0x[0-9a-f]+|\s*Use --cookies.*"
    r"|\s*See\s+https?://.*|:?\s*https?://\S+",
    re.I | re.S,
)
_NAMED = re.compile(r"^\s*\[[^\]]*\] [^\s:]+: ")  # "[youtube] <id>: ": an id is no message
_OURS_TO_RAISE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE)


def classify(error: BaseException) -> tuple[FetchStatus, str]:
    """Status and one line of detail (at most 200 characters) for a failed fetch.

    Reads the whole chain of causes of a yt-dlp error: words that say more than an HTTP status,
    then that status, then the types of the causes, then all other words. Total: never raises, and
    what nobody knows is `unknown` with its text kept.
    """
    chain = list(causes(error))
    detail = _one_line(str(error)) or type(error).__name__
    text = "\n".join(_NAMED.sub("", _NOISE.sub("", str(link))) for link in chain)
    for status, pattern in _CLEARER_THAN_A_NUMBER:
        if re.search(pattern, text, re.I):
            return status, detail
    code = _http_status(chain, text)
    if code is not None:
        return _of_http(code), detail
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    if "GeoRestrictedError" in names:
        return FetchStatus.GEO_BLOCKED, detail
    if names & {"TransportError", "ContentTooShortError", "TimeoutError", "ConnectionError"}:
        return FetchStatus.NETWORK_TRANSIENT, detail
    for status, pattern in _OTHER_MESSAGES:
        if re.search(pattern, text, re.I):
            return status, detail
    if "UnavailableVideoError" in names:
        return FetchStatus.FORMAT_UNAVAILABLE, detail
    return FetchStatus.UNKNOWN, detail


def local_failure(error: BaseException) -> OSError | None:
    """The error of this machine's own disk or rights behind a failed fetch, if that is the reason.

    Such an error belongs to the user and must not become the status of a clip.
    """
    for link in causes(error):
        if isinstance(link, OSError) and link.errno in _OURS_TO_RAISE:
            return link
    if "No space left on device" in str(error):
        return OSError(errno.ENOSPC, "No space left on device")
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything it came from, each once (yt-dlp keeps causes in its own fields)."""
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop(0)
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        kept = getattr(link, "exc_info", None)
        waiting += [kept[1] if isinstance(kept, tuple) and len(kept) == 3 else None]
        waiting += [getattr(link, "cause", None), link.__cause__, link.__context__]


def _http_status(chain: list[BaseException], text: str) -> int | None:
    for link in chain:
        status = getattr(link, "status", None)
        if isinstance(status, int) and 400 <= status < 600:
            return status
    found = _HTTP.search(text)
    return int(found[1]) if found else None


def _of_http(code: int) -> FetchStatus:
    if code in (404, 410):
        return FetchStatus.GONE
    if code in (401, 403):
        return FetchStatus.PRIVATE
    if code == 407:
        return FetchStatus.LOGIN_OR_BOT_CHECK
    if code == 429:
        return FetchStatus.RATE_LIMITED
    if code == 451:
        return FetchStatus.GEO_BLOCKED
    if code in (408, 425) or code >= 500:
        return FetchStatus.NETWORK_TRANSIENT
    return FetchStatus.UNKNOWN


def _one_line(text: str) -> str:
    return " ".join(_NOISE.sub("", text).split())[:200]

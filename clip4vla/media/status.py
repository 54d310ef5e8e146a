"""The statuses of a clip in three enums, when to try again, and the classification of errors.

A missing clip is a row with a status, never an exception.
"""

import errno
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from clip4vla.media.causes import FFMPEG_HTTP, causes, ffmpeg_code, http_status, is_no_http

Retry = Literal["now", "later", "never"]


class FetchStatus(StrEnum):
    """The result of the attempt to get a clip's file."""

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
        """Return "now" (up to three attempts), "later" (after a pause, docs/data.md) or "never"."""
        return _RETRY[self]


class VideoStatus(StrEnum):
    """The result of decoding the pictures; `ok` means at least one frame."""

    OK = "ok"
    NO_VIDEO_STREAM = "no_video_stream"
    DECODE_ERROR = "decode_error"
    TOO_SHORT = "too_short"  # or a still picture
    TOO_LONG = "too_long"
    NOT_FETCHED = "not_fetched"


class AudioStatus(StrEnum):
    """The result of decoding the sound; all but `ok` and `not_fetched` are silent (facts 10.1)."""

    OK = "ok"
    NO_AUDIO_STREAM = "no_audio_stream"
    DIGITAL_SILENCE = "digital_silence"
    DECODE_ERROR = "decode_error"
    TOO_LONG = "too_long"
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

# They concern this machine, not one clip.
REFUSALS = (FetchStatus.RATE_LIMITED, FetchStatus.LOGIN_OR_BOT_CHECK)

# The first pattern that matches decides; the messages are those of yt-dlp and of YouTube.
_Messages = tuple[tuple[FetchStatus, str], ...]
_CLEARER_THAN_A_NUMBER: _Messages = (  # a server also sends 400 or 403 in these cases
    (
        FetchStatus.PRIVATE,
        r"private video|video is private|is private|members.only|join this channel"
        r"|available to this channel's members|premium members|requires payment|\brental",
    ),
    (
        FetchStatus.AGE_RESTRICTED,
        r"confirm your age|age.restricted|inappropriate for some users|suicide or self.harm",
    ),
    (
        FetchStatus.RATE_LIMITED,
        # With an empty file, or content that "isn't available", YouTube refuses a whole session;
        # its message for a removed clip says "video".
        r"too many requests|rate.?limit|(request|usage|download)s? limit"
        r"|limit (was )?(reached|exceeded)|(?<!disk )quota|try again (later|in\b)|throttl"
        r"|temporarily (blocked|banned)"
        r"|\bip( address)? (is|has been|was)\b.{0,20}\b(block|bann)|automated (quer|request)"
        r"|content isn.t available(?!.*\bin your)|downloaded file is empty|not get any data blocks",
    ),
    (
        FetchStatus.LOGIN_OR_BOT_CHECK,
        r"not a bot|login (is )?(required|details|needed)|log in|sign in|signing in|account cookies"
        r"|captcha|anti-bot|unusual traffic|administrator|workspace|google apps|restricted mode"
        r"|supervised|your (school|work|organi[sz]ation)\b|(school|work|organi[sz]ation.?s) account"
        r"|account (isn.t|is not) (eligible|allowed)|parental control",
    ),
)
_OTHER_MESSAGES: _Messages = (
    (
        FetchStatus.NETWORK_TRANSIENT,
        r"name resolution|name or service|nodename|getaddrinfo|resolve host|failed to resolve"
        r"|associated with hostname|\bdns\b|nxdomain|no such host|no route to host",
    ),
    (
        FetchStatus.GEO_BLOCKED,
        r"(in|from) your (country|location|region)|geo.?restrict|geo.?block",
    ),
    (
        FetchStatus.FORMAT_UNAVAILABLE,
        r"requested format|unsupported url|no (video )?formats|unsafe file extension"
        r"|premieres in|live event|live stream|\boffline\b|no media file|\bdrm\b"
        r"|not available on this app|no longer supported in this|needs to be reloaded"
        r"|this video is not available|processing this video|playback on other|redirect",
    ),
    (
        FetchStatus.GONE,
        r"video (is )?(unavailable|not available)|has been removed|been removed|was removed"
        r"|(no longer|isn.t|not) available|account .*terminated|been terminated|copyright"
        r"|does not exist|for violating|been deleted|incomplete youtube id",
    ),
    (FetchStatus.CUT_FAILED, r"ffmpeg exited|ffmpeg could not|cut failed|postprocess"),
    (
        FetchStatus.NETWORK_TRANSIENT,
        r"timed? ?out|connection|unreachable|remote end closed|incomplete ?read|bytes read"
        r"|bytes, expected|temporar|transport ?error|ssl|network|broken pipe|protocol error"
        r"|unable to connect",
    ),
)
_NOISE = re.compile(
    r"^\s*(?:\x1b\[[0-9;]*m)*ERROR:\s*|\x1b\[[0-9;]*m|\s*\(caused by .*"
    r"|; please report this issue.*|;? ?Confirm you are on the latest.*"
    r"|\s?at 0x[0-9a-f]+|\s*Use --cookies.*"
    r"|\s*See\s+https?://.*|:?\s*https?://\S+",
    re.I | re.S,
)
_NAMED = re.compile(r"^\s*\[[^\]]*\] [^\s:]+: ")  # "[youtube] <id>: ": an id is no message
_FFMPEG_NETWORK = (
    *(errno.EIO, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET),
    *(errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN),
)


def classify(error: BaseException, warnings: Sequence[str] = ()) -> tuple[FetchStatus, str]:
    """Return the status and one line of detail for a failed fetch.

    Reads the whole chain of causes of a yt-dlp error: messages that are clearer than an HTTP
    status, then that status, then the types of the causes, then all other messages. If the result
    is still unclear (no format, no player response), a refusal in yt-dlp's warnings decides. Never
    raises: any other error is `unknown`, with its text as detail.
    """
    status, detail = _classified(error)
    if status in (FetchStatus.UNKNOWN, FetchStatus.FORMAT_UNAVAILABLE):
        of_warnings = [_classified(RuntimeError(warning))[0] for warning in warnings]
        status = next((one for one in of_warnings if one in REFUSALS), status)
    return status, with_warnings(detail, warnings)


def with_warnings(detail: str, warnings: Sequence[str]) -> str:
    """Return a detail (at most 200 characters) with the last two of yt-dlp's warnings behind it."""
    last = [_one_line(warning) for warning in dict.fromkeys(warnings)][-2:]
    return "; ".join([*([detail] if detail else []), *(f"yt-dlp warned: {one}" for one in last)])


def _classified(error: BaseException) -> tuple[FetchStatus, str]:
    chain = list(causes(error))
    detail = _one_line(str(error)) or type(error).__name__
    text = "\n".join(_NAMED.sub("", _NOISE.sub("", str(link))) for link in chain)
    for status, pattern in _CLEARER_THAN_A_NUMBER:
        if re.search(pattern, text, re.I):
            return status, detail
    code = http_status(error)
    if code is not None:
        return _of_http(code), detail
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    if is_no_http(chain):
        return FetchStatus.FORMAT_UNAVAILABLE, detail
    if "GeoRestrictedError" in names:
        return FetchStatus.GEO_BLOCKED, detail
    if names & {"TransportError", "ContentTooShortError", "TimeoutError", "ConnectionError"}:
        return FetchStatus.NETWORK_TRANSIENT, detail
    stopped = ffmpeg_code(error)
    if stopped == FFMPEG_HTTP:
        return FetchStatus.RATE_LIMITED, f"{detail}: the server refused"
    if stopped is not None and 256 - stopped in _FFMPEG_NETWORK:
        return FetchStatus.NETWORK_TRANSIENT, f"{detail}: the connection broke"
    for status, pattern in _OTHER_MESSAGES:
        if re.search(pattern, text, re.I):
            return status, detail
    if "UnavailableVideoError" in names:
        return FetchStatus.FORMAT_UNAVAILABLE, detail
    return FetchStatus.UNKNOWN, detail


def _of_http(code: int) -> FetchStatus:
    if code in (404, 410):
        return FetchStatus.GONE
    if code in (401, 407):
        return FetchStatus.LOGIN_OR_BOT_CHECK
    if code in (403, 429):  # a bare 403 may concern this machine and not the clip
        return FetchStatus.RATE_LIMITED
    if code == 451:
        return FetchStatus.GEO_BLOCKED
    if code in (408, 425) or code >= 500:
        return FetchStatus.NETWORK_TRANSIENT
    if code < 400:  # redirects that lead nowhere
        return FetchStatus.FORMAT_UNAVAILABLE
    return FetchStatus.UNKNOWN


def _one_line(text: str) -> str:
    return " ".join(_NOISE.sub("", text).split())[:200]

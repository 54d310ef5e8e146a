import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError

from clip4vla.media.status import FetchStatus, classify, local_failure

RECORDED = [
    ("[youtube] x: Private video. Sign in if you've been granted access to this video", "private"),
    ("[youtube] x: Join this channel to get access to members-only content", "private"),
    ("[youtube] x: Video unavailable", "gone"),
    ("[youtube] x: Video unavailable. This video has been removed by the uploader", "gone"),
    ("[youtube] x: This video is no longer available because the YouTube account associated with "
     "this video has been terminated.", "gone"),
    ("[youtube] x: Video unavailable. This video contains content from Y, who has blocked it on "
     "copyright grounds", "gone"),
    ("[youtube] x: This video has been removed for violating YouTube's Terms of Service", "gone"),
    ("[youtube] x: The uploader has not made this video available in your country", "geo_blocked"),
    ("[youtube] x: Sign in to confirm your age. This video may be inappropriate for some users. "
     "Use --cookies-from-browser", "age_restricted"),
    ("[youtube] x: Sign in to confirm you’re not a bot. Use --cookies", "login_or_bot_check"),
    ("[youtube] x: Video unavailable. This content isn't available, try again later. The current "
     "session has been rate-limited by YouTube", "rate_limited"),
    ("unable to download video data: HTTP Error 403: Forbidden", "rate_limited"),
    ("[generic] x: Unable to download webpage: HTTP Error 403: Forbidden", "private"),
    ("[youtube] x: HTTP Error 429: Too Many Requests", "rate_limited"),
    ("[generic] x: Unable to download webpage: HTTP Error 404: Not Found", "gone"),
    ("[generic] x: Unable to download webpage: HTTP Error 410: Gone", "gone"),
    ("[generic] x: Unable to download webpage: HTTP Error 503: Busy", "network_transient"),
    ("[generic] x: HTTP Error 451: Unavailable For Legal Reasons", "geo_blocked"),
    ("[youtube] x: Requested format is not available. Use --list-formats", "format_unavailable"),
    ("[youtube] x: Premieres in 3 hours", "format_unavailable"),
    ("Unable to download webpage: The read operation timed out", "network_transient"),
    ("<urlopen error [Errno -3] Temporary failure in name resolution>", "network_transient"),
    ("[Errno 104] Connection reset by peer", "network_transient"),
    ("Did not get any data blocks", "network_transient"),
    ("ffmpeg exited with code 183", "cut_failed"),
    ("[generic] not-a-bot: HTTP Error 404: Not Found", "gone"),
    ("something nobody has seen before", "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "status"), RECORDED)
def test_recorded_messages(message, status):
    found, detail = classify(DownloadError(f"\x1b[0;31mERROR:\x1b[0m {message}"))
    assert found == status
    assert detail and "\x1b" not in detail and not detail.startswith("ERROR")


def test_the_chain_of_causes_is_read():
    refused = TransportError(cause=OSError(errno.ECONNREFUSED, "refused"))
    assert classify(ExtractorError("nothing said", cause=refused))[0] == "network_transient"
    outer = DownloadError("odd", (ValueError, GeoRestrictedError("here"), None))
    assert classify(outer)[0] == "geo_blocked"
    assert classify(IncompleteRead(partial=3, expected=5))[0] == "network_transient"
    assert classify(UnsupportedError("http://127.0.0.1:9/age-restricted.mp4"))[0] == (
        "format_unavailable"
    )
    assert classify(TimeoutError())[0] == "network_transient"


def test_an_http_error_object_decides_without_words():
    class Response:
        status, reason = 410, "x"

        def close(self):
            pass

    assert classify(ExtractorError("x", cause=HTTPError(Response())))[0] == "gone"


def test_a_full_disk_is_no_status_of_a_clip():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert local_failure(DownloadError("x", (OSError, full, None))) is full
    assert local_failure(DownloadError("[Errno 28] No space left on device")).errno == errno.ENOSPC
    assert local_failure(DownloadError("HTTP Error 404")) is None


@given(st.text(max_size=300))
def test_classify_is_total_and_its_detail_is_one_short_line(message):
    status, detail = classify(ValueError(message))
    assert isinstance(status, FetchStatus) and status != FetchStatus.OK
    assert len(detail) <= 200 and len(detail.splitlines()) <= 1 and detail


def test_details_hold_no_addresses():
    error = DownloadError("no <conn object at 0x7fab12> http://127.0.0.1:40123/a.mp4 (caused by x)")
    assert classify(error)[1] == "no <conn object>"


def test_every_status_has_a_retry_rule():
    assert {status.retry for status in FetchStatus} == {"now", "later", "never"}
    assert FetchStatus.NETWORK_TRANSIENT.retry == "now" and FetchStatus.GONE.retry == "never"

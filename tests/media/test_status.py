import errno
import random
import time
from email.utils import formatdate

import pytest
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError

from clip4vla.media.causes import local_failure, retry_after
from clip4vla.media.status import REFUSALS, FetchStatus, classify, with_warnings

RECORDED = {  # messages of yt-dlp and of YouTube, as users report them; {} is "[youtube] <id>: "
    "private": [
        "{}Private video. Sign in if you've been granted access to this video",
        "{}Private video. Sign in if you've been granted access to this video. Use "
        "--cookies-from-browser or --cookies for the authentication. See  https://x.example/FAQ",
        "{}Video unavailable. This video is private",
        "{}This is a private video. Please sign in to verify that you may see it.",
        "{}Join this channel to get access to members-only content",
        "{}Join this channel to get access to members-only content like this video, and other "
        "exclusive perks.",
        "{}This video is available to this channel's members on level: Bonus (or any higher "
        "level). Join this channel to get access to members-only content",
        "{}This video is only available to Music Premium members",
        "{}This video requires payment to watch.",
    ],
    "gone": [
        "{}Video unavailable",
        "{}This video is unavailable",
        "{}Video unavailable. This video has been removed by the uploader",
        "{}This video was removed by the uploader",
        "{}This video has been removed for violating YouTube's Terms of Service",
        "{}This video has been removed for violating YouTube's Community Guidelines.",
        "{}This video has been removed for violating YouTube's policy on nudity or sexual content.",
        "{}This video has been removed for violating YouTube's policy on spam, deceptive "
        "practices, and scams",
        "{}This video is no longer available because the YouTube account associated with this "
        "video has been terminated.",
        "{}Video unavailable. This video is no longer available because the YouTube account "
        "associated with this video has been terminated",
        "{}This video is no longer available because the uploader has closed their YouTube account.",
        "{}This video is no longer available due to a copyright claim by Y.",
        "{}Video unavailable. This video is no longer available due to a copyright claim by Y",
        "{}This video contains content from Y, who has blocked it on copyright grounds.\n"
        "Sorry about that.",
        "{}Video unavailable. This video contains content from Y, who has blocked it on copyright "
        "grounds",
        "{}This video does not exist.",
        "{}This video isn't available anymore",
        "{}This clip is no longer available",
        "{}This video is no longer available in this form: it was removed by the uploader",
        "Incomplete YouTube ID abc. URL https://www.youtube.com/watch?v=abc looks truncated.",
        "[generic] x: Unable to download webpage: HTTP Error 404: Not Found",
        "[generic] x: Unable to download webpage: HTTP Error 410: Gone",
        "[generic] not-a-bot: HTTP Error 404: Not Found",
        "unable to download video data: HTTP Error 404: Not Found",
    ],
    "geo_blocked": [
        "{}The uploader has not made this video available in your country",
        "{}Video unavailable. The uploader has not made this video available in your country",
        "{}The uploader has not made this video available in your country. This video is "
        "available in Germany. You might want to use a VPN or a proxy server (with --proxy) to "
        "workaround.",
        "{}Video unavailable. This video is not available in your country",
        "{}This video contains content from SME, who has blocked it in your country on copyright "
        "grounds.\nSorry about that.",
        "{}Video unavailable. This video contains content from UMG, who has blocked it in your "
        "country on copyright grounds",
        "[generic] x: This video is not available from your location due to geo restriction",
        "[generic] x: HTTP Error 451: Unavailable For Legal Reasons",
    ],
    "age_restricted": [
        "{}Sign in to confirm your age. This video may be inappropriate for some users.",
        "{}Sign in to confirm your age. This video may be inappropriate for some users. Use "
        "--cookies-from-browser or --cookies for the authentication",
        "{}This video may be inappropriate for some users.",
        "{}This video is age-restricted and only available on YouTube",
        "{}The following content may contain suicide or self-harm topics.",
    ],
    "login_or_bot_check": [
        "[generic] x: Unable to download webpage: HTTP Error 401: Unauthorized",
        "{}Sign in to confirm you’re not a bot. Use --cookies",
        "{}Sign in to confirm you’re not a bot. This helps protect our community. Learn more",
        "{}Sign in to confirm you're not a bot. Use --cookies-from-browser or --cookies for the "
        "authentication.",
        "{}Sign in to confirm you\ufffdre not a bot. This helps protect our community. Learn more",
        "{}Please sign in. Use --cookies-from-browser or --cookies for the authentication.",
        "{}Video unavailable. This video is restricted. Try signing in with a Google Workspace "
        "account",
        "{}Video unavailable. This video is restricted. Please check the Google Workspace "
        "administrator and/or the network administrator restrictions.",
        "{}This video is restricted. Please check the network administrator restrictions.",
        "{}YouTube said: This video is restricted. Try signing in with a Google Apps account.",
        "{}Video unavailable. YouTube is turned off by your organization's administrator",
        "{}This video is not available for supervised accounts",
        "{}Video unavailable. This video is not available with Restricted Mode enabled",
        "{}This video is not available for your school account",
        "{}This video is unavailable with parental controls",
        "{}Login details are needed to download this content. Use --cookies",
        "{}The provided YouTube account cookies are no longer valid. They have likely been rotated",
        "{}Our systems have detected unusual traffic from your computer network.",
        "{}Something. YouTube is requiring a captcha challenge before playback",
    ],
    "rate_limited": [
        "{}HTTP Error 429: Too Many Requests",
        "{}Unable to download API page: HTTP Error 429: Too Many Requests (caused by <HTTPError "
        "429: Too Many Requests>)",
        "[generic] x: Unable to download webpage: HTTP Error 429: Too Many Requests",
        "{}Video unavailable. This content isn't available, try again later. The current session "
        "has been rate-limited by YouTube for up to an hour. It is recommended to use `-t sleep` "
        "to add a delay between video requests",
        "{}This content isn’t available, try again later. Your account has been rate-limited by "
        "YouTube for up to an hour.",
        "{}An error occurred. Please try again later.",
        "{}Video unavailable. This content isn’t available.",
        "{}This content isn't available",
        "{}Something went wrong. Refresh or try again later.",
        "{}You have reached your request limit. This video is not available",
        "{}The daily request limit was exceeded: video unavailable",
        "{}Exceeded request rate limit. Please try again in a few hours.",
        "{}The request cannot be completed because you have exceeded your quota.",
        "{}Your IP has been temporarily blocked",
        "{}All player responses are invalid. Your IP is likely being blocked by Youtube",
        "{}Your computer or network may be sending automated queries. The page does not exist",
        "The downloaded file is empty",
        "Did not get any data blocks",
        "unable to download video data: HTTP Error 403: Forbidden",
        "[generic] x: Unable to download webpage: HTTP Error 403: Forbidden",
        "{}Unable to download API page: HTTP Error 403: Forbidden",
        "ffmpeg exited with code 8",
    ],
    "format_unavailable": [
        "{}Requested format is not available. Use --list-formats for a list of available formats",
        "{}No video formats found!; please report this issue on  https://x.example",
        "{}This video is not available",
        "{}Video unavailable. This video is not available",
        "{}The page needs to be reloaded.. The page needs to be reloaded.",
        "{}The following content is not available on this app.. Watch on the latest version of "
        "YouTube.",
        "{}YouTube is no longer supported in this application or device.",
        "{}Premieres in 6 hours",
        "{}This live event will begin in 2 days.",
        "{}This live event will begin in a few moments.",
        "{}This live event has ended.",
        "{}This live stream recording is not available.",
        "{}Offline.",
        "{}We're processing this video. Check back later.",
        "{}Playback on other websites has been disabled by the video owner",
        "{}This video is DRM protected",
        "Unsupported URL: https://x.example/page",
        "[generic] x: Unable to download webpage: HTTP Error 302: Found (redirect loop detected)",
    ],
    "network_transient": [
        "[generic] x: Unable to download webpage: HTTP Error 503: Busy",
        "{}Unable to download API page: HTTP Error 500: Internal Server Error",
        "Unable to download webpage: The read operation timed out",
        "{}Unable to download API page: The read operation timed out (caused by "
        "TransportError('The read operation timed out'))",
        "{}Unable to download webpage: <conn object>: Failed to resolve 'www.youtube.com' ([Errno "
        "-2] Name or service not known)",
        "<urlopen error [Errno -3] Temporary failure in name resolution>",
        "{}Unable to download webpage: ('Connection aborted.', RemoteDisconnected('Remote end "
        "closed connection without response'))",
        "[Errno 104] Connection reset by peer",
        "[Errno 101] Network is unreachable",
        "[Errno 110] Connection timed out",
        "<urlopen error [Errno 111] Connection refused>",
        "{}Unable to connect to proxy",
        "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1000)",
        "[download] Got error: 8297 bytes read, 1000 more expected",
        "[download] Got error: 1076 bytes read",
        "{}Unable to download webpage: Failed to resolve 'x' ([Errno -5] No address associated with "
        "hostname)",
        "{}Unable to download webpage: [Errno 8] nodename nor servname provided, or not known",
        "{}Unable to download webpage: [Errno 11001] getaddrinfo failed",
        "{}DNS lookup failed: the name does not exist, or is not available",
        "[Errno 113] No route to host",
        "ffmpeg exited with code 145",
        "ffmpeg exited with code 251",
    ],
    "cut_failed": [
        "ffmpeg exited with code 183",
        "ffmpeg exited with code 1",
        "Postprocessing: Conversion failed!",
    ],
    "unknown": [
        "something nobody has seen before",
        "{}Unable to extract yt initial data; please report this issue on  https://x.example",
        "{}Failed to extract any player response; please report this issue on  https://x.example",
        "{}Unable to download API page: HTTP Error 400: Bad Request",
    ],
}  # fmt: skip


@pytest.mark.parametrize("status", RECORDED)
def test_recorded_messages(status):
    for message in RECORDED[status]:
        text = message.replace("{}", "[youtube] dQw4w9WgXcQ: ")
        found, detail = classify(DownloadError(f"\x1b[0;31mERROR:\x1b[0m {text}"))
        assert found == status, text
        assert detail and "\x1b" not in detail and not detail.startswith("ERROR")
        assert len(detail.splitlines()) == 1 and "https://" not in detail


def test_there_are_messages_of_every_status():
    assert set(RECORDED) | {"ok"} == set(FetchStatus)
    assert sum(map(len, RECORDED.values())) >= 90


def test_ids_do_not_affect_the_status():
    """An id may spell a word that a pattern looks for."""
    for word in ("captcha", "offline", "timeout", "drm", "throttl", "log-in"):
        assert classify(DownloadError(f"ERROR: [youtube] {word}: Video unavailable"))[0] == "gone"


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
    assert local_failure(DownloadError("[Errno 122] Disk quota exceeded")).errno == errno.EDQUOT
    assert local_failure(DownloadError("HTTP Error 404")) is None


@pytest.mark.parametrize(
    ("code", "number"),
    [(228, errno.ENOSPC), (229, errno.EFBIG), (-25, errno.EFBIG), (134, errno.EDQUOT), (183, None), (1, None)],
)  # fmt: skip
def test_a_full_disk_that_stops_ffmpeg_is_no_status_of_a_clip(code, number):
    found = local_failure(DownloadError(f"ERROR: ffmpeg exited with code {code}"))
    assert (found and found.errno) == number


def test_classify_is_total_and_its_detail_is_one_short_line():
    chance = random.Random(0)
    letters = "aB3 :[]()<>%\\\n\t\r\0\x1b\u2028\u00e9\U0001f3ac'\"{}"
    known = [message for messages in RECORDED.values() for message in messages]
    for _ in range(5000):
        message = "".join(chance.choices(letters, k=chance.randint(0, 60)))
        if chance.random() < 0.5:
            message += chance.choice(known) + message
        status, detail = classify(ValueError(message))
        assert isinstance(status, FetchStatus) and status != FetchStatus.OK
        assert len(detail) <= 200 and len(detail.splitlines()) <= 1 and detail


class Response:
    status, reason = 429, "x"

    def __init__(self, **headers):
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def close(self):
        pass


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7), ("0", 0), ("-3", 0), ("1.5", 1.5), ("99999999999", 7 * 24 * 3600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("nan", None), ("soon", None), ("", None),
    ],
)  # fmt: skip
def test_retry_after(said, seconds):
    error = DownloadError("x", (ValueError, HTTPError(Response(Retry_After=said)), None))
    assert retry_after(error) == seconds


def test_retry_after_a_date():
    error = HTTPError(Response(Retry_After=formatdate(time.time() + 100, usegmt=True)))
    assert retry_after(error) == pytest.approx(100, abs=3)
    assert retry_after(ValueError("x")) is None and retry_after(HTTPError(Response())) is None


def test_details_hold_no_addresses():
    error = DownloadError("no <conn object at 0x7fab12> http://127.0.0.1:40123/a.mp4 (caused by x)")
    assert classify(error)[1] == "no <conn object>"


def test_every_status_has_a_retry_rule():
    assert {status.retry for status in FetchStatus} == {"now", "later", "never"}
    assert FetchStatus.NETWORK_TRANSIENT.retry == "now" and FetchStatus.GONE.retry == "never"


BLOCKED = [*RECORDED["login_or_bot_check"], *RECORDED["rate_limited"]]


@pytest.mark.parametrize("message", BLOCKED)
def test_refusals_of_a_network_or_an_account_are_not_final(message):
    """It is asked again later, and counts as a refusal: five in a row stop the requests."""
    status, _ = classify(DownloadError(message.replace("{}", "[youtube] abc: ")))
    assert status.retry == "later" and status in REFUSALS


def test_a_refusal_in_a_warning_decides_if_the_error_is_unclear():
    said = ["[youtube] abc: Unable to download API page: HTTP Error 429: Too Many Requests"]
    for message in ("[youtube] abc: No video formats found!", "something nobody has seen"):
        assert classify(DownloadError(message), said)[0] == "rate_limited"
    assert classify(DownloadError("[youtube] abc: Private video"), said)[0] == "private"
    assert classify(DownloadError("something nobody has seen"), ["odd"])[0] == "unknown"


def test_the_detail_keeps_the_last_two_warnings():
    said = [
        "first",
        "No supported JavaScript runtime could be found. See  https://x.example",
        "b",
        "b",
    ]
    _, detail = classify(DownloadError("[youtube] abc: No video formats found!"), said)
    assert detail == (
        "[youtube] abc: No video formats found!; "
        "yt-dlp warned: No supported JavaScript runtime could be found.; yt-dlp warned: b"
    )
    assert with_warnings("", ["odd"]) == "yt-dlp warned: odd" and with_warnings("", []) == ""


@pytest.mark.parametrize(
    ("status", "codes"),
    [
        ("gone", (404, 410)),
        ("login_or_bot_check", (401, 407)),
        ("rate_limited", (403, 429)),
        ("geo_blocked", (451,)),
        ("network_transient", (408, 425, 500, 502, 503, 599)),
        ("format_unavailable", (300, 308)),
        ("unknown", (400, 402, 405, 409, 411, 418, 424, 426, 450, 499)),
    ],
)
def test_every_answer_of_a_server_has_its_status(status, codes):
    found = {code: classify(RuntimeError(f"HTTP Error {code}: x"))[0] for code in codes}
    assert found == dict.fromkeys(codes, status)


def test_additions_of_yt_dlp_to_a_message_are_ignored():
    error = DownloadError("it is odd (CAUSED BY <Odd\n: connection timed out>)")
    assert classify(error)[0] == "unknown"


def test_unknown_errors_are_retried_later_and_failed_cuts_at_once():
    assert FetchStatus.UNKNOWN.retry == "later" and FetchStatus.CUT_FAILED.retry == "now"

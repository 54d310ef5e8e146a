"""Configuration of yt-dlp: permissions, download rate limits, and its warnings."""

import io
import os
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.media.causes import FFMPEG_HTTP, ffmpeg_code
from clip4vla.media.containers import CONTAINERS, FILE, HTTP, ffmpeg_input
from clip4vla.media.cookies import checked_cookies, invalid_cookies
from clip4vla.media.tools import deno, offer_ffmpeg

TOOL = f"yt-dlp {version('yt-dlp')}"
SOCKET_SECONDS = 20  # of silence before a server counts as unreachable
_FORMAT = "bv*[height<=480][ext=mp4]+ba[ext=m4a]/b[height<=480][ext=mp4]/b[height<=480]/bv*+ba/b"
_LASTING = re.compile(r"(?i)javascript runtime|remote component|solver script")


class NoMediaFile(Exception):
    """The server answered, but not with a media file."""


class Log:
    """A log that keeps yt-dlp's warnings; its errors arrive as exceptions.

    yt-dlp warns only once about a missing JavaScript runtime or missing scripts, but the warning
    applies to all later videos.
    """

    def __init__(self) -> None:
        self.lasting: list[str] = []
        self.last: list[str] = []

    def debug(self, message: str) -> None:
        """Swallow a message."""

    info = error = debug

    def warning(self, message: str) -> None:
        """Keep a warning."""
        if not _LASTING.search(message):
            self.last.append(message)
        elif message not in self.lasting:
            self.lasting.append(message)


def youtube_dl(dataset: Dataset, tools: Path, log: Log, ranges: Callable) -> Any:
    """Return yt-dlp for the source of a dataset, with its cookies read.

    ranges: yt-dlp's `download_ranges`. Raises UserError for cookies that cannot be read.
    """
    offer_ffmpeg(tools)
    if dataset.source == "http" and _is_loopback(dataset.url or ""):
        _reach_loopback_directly()
    options = _common(dataset, log)
    if dataset.source == "youtube":
        options |= _youtube(dataset, tools, ranges)
    youtube_dl = _youtube_dl(options)
    try:
        youtube_dl.cookiejar  # noqa: B018  (read now, not at the first request)
    except Exception:  # its text may have a cookie in it
        if dataset.cookies is None:
            raise
        raise UserError(invalid_cookies(dataset.cookies, "yt-dlp cannot read it")) from None
    return youtube_dl


def refused_why(youtube_dl: Any, url: str, headers: dict[str, str]) -> None:
    """Request one byte of a URL that ffmpeg was refused, to raise the error it did not report."""
    from yt_dlp.networking import Request

    youtube_dl.urlopen(Request(url, headers={**headers, "Range": "bytes=0-0"})).close()


def _youtube_dl(options: dict[str, Any]) -> Any:
    from yt_dlp import YoutubeDL  # only once ffmpeg is on PATH: yt-dlp remembers where it was
    from yt_dlp.utils import DownloadError

    class Downloader(YoutubeDL):
        """yt-dlp that repeats a request that ffmpeg was refused, to learn the reason."""

        def dl(
            self, name: str, info: dict[str, Any], subtitle: bool = False, test: bool = False
        ) -> Any:
            try:
                return super().dl(name, info, subtitle, test)
            except DownloadError as error:
                if ffmpeg_code(error) != FFMPEG_HTTP:
                    raise
                for part in info.get("requested_formats") or [info]:
                    refused_why(self, part["url"], part.get("http_headers") or {})
                raise

    return Downloader(options)


def _common(dataset: Dataset, log: Log) -> dict[str, Any]:
    most = dataset.rate.clip_bytes

    def bound(progress: dict[str, Any]) -> None:
        sizes = (progress.get("downloaded_bytes"), progress.get("total_bytes"))
        if max(size or 0 for size in sizes) > most:
            raise NoMediaFile(f"no media file: more than {most:,} bytes (rate.clip_bytes)")

    return {
        "quiet": True,
        "noprogress": True,
        "logger": log,
        "progress_hooks": [bound],
        "cachedir": False,
        "format": "b",
        "outtmpl": {"default": ""},
        "allowed_extractors": [],  # of `source: http`, addresses are not looked into
        "fixup": "never",
        "overwrites": True,
        "continuedl": False,
        "updatetime": False,
        "socket_timeout": SOCKET_SECONDS,
        "retries": 0,
        "file_access_retries": 0,
        "ratelimit": dataset.rate.bytes_per_second,
    }


def _youtube(dataset: Dataset, tools: Path, ranges: Callable) -> dict[str, Any]:
    os.environ.setdefault("DENO_DIR", str(tools / "deno"))
    os.environ["DENO_NO_UPDATE_CHECK"] = "1"
    rate = dataset.rate
    # YouTube itself gives some formats as HLS, in pieces that may be encrypted.
    source = [*ffmpeg_input(f"{HTTP},crypto", f"{CONTAINERS},hls"), *timeout()]
    clip = ["-fflags", "+bitexact", "-map_metadata", "-1", "-sn", "-dn", "-xerror"]
    options = {
        "js_runtimes": {"deno": {"path": deno()}},
        "remote_components": [],  # scripts come from yt-dlp-ejs, never from the network
        "format": _FORMAT,
        "merge_output_format": "mp4",
        "allowed_extractors": ["youtube"],
        "noplaylist": True,
        "download_ranges": ranges,
        "extractor_retries": 0,
        "fragment_retries": 2,
        "skip_unavailable_fragments": False,
        "postprocessor_args": {"merger+ffmpeg_i": ffmpeg_input(FILE)},  # of each file it joins
        "external_downloader_args": {
            **{f"ffmpeg_i{number}": source for number in ("", 1, 2)},
            "ffmpeg_o": [*clip, "-fs", str(rate.clip_bytes), "-f", "mp4"],
        },
        "sleep_interval_requests": rate.request_pause,
        "sleep_interval": rate.clip_pause,
        "max_sleep_interval": 2.5 * rate.clip_pause,
    }
    if dataset.cookies:
        # A copy, because yt-dlp writes its cookies back, and several jobs read this file.
        options["cookiefile"] = io.StringIO(checked_cookies(dataset.cookies))
    return options


def timeout() -> list[str]:
    """Return ffmpeg's option of an input that gives up a silent server."""
    return ["-rw_timeout", str(round(SOCKET_SECONDS * 1_000_000))]


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _reach_loopback_directly() -> None:
    """Exclude this machine from the proxy, which cannot reach a server on it."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        added = [host for host in ("127.0.0.1", "localhost") if host not in hosts]
        os.environ[name] = ",".join(hosts + added)

"""Download a media file of `source: http`, or cut a clip from it.

A page, playlist or manifest could name any address and have any size. None is read: a response
whose first bytes are text is refused.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clip4vla.media.causes import FFMPEG_HTTP
from clip4vla.media.containers import FILE, HTTP, ffmpeg_input
from clip4vla.media.cut import FfmpegStopped, cut, most_bytes
from clip4vla.media.planned import TimeRange
from clip4vla.media.ytdlp import NoMediaFile, refused_why, timeout

EXTENSIONS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "flv", "mpg", "mpeg", "ts", "3gp", "ogv")
_BEGINNING = 512  # bytes
_OF_TEXT = frozenset(b"\t\n\v\f\r\x1b") | frozenset(range(32, 256))


class BrokenOff(Exception):
    """The server began to answer and did not end."""


@dataclass(frozen=True)
class MediaFile:
    """A file of a server: its address after redirects, suffix, and whether parts can be had."""

    url: str
    suffix: str
    in_parts: bool


def look_up(youtube_dl: Any, address: str) -> MediaFile:
    """Ask for a file and read its first bytes.

    Raises NoMediaFile for anything else, BrokenOff, or yt-dlp's error.
    """
    from yt_dlp.networking import Request
    from yt_dlp.networking.exceptions import HTTPError, RequestError, TransportError
    from yt_dlp.utils import mimetype2ext

    headers = {"Accept-Encoding": "identity", "Range": "bytes=0-"}
    try:
        response = youtube_dl.urlopen(Request(address, headers=headers))
    except (HTTPError, TransportError) as error:
        if getattr(error, "status", None) == 416:  # no range of it can be had: it has no bytes
            raise NoMediaFile("the downloaded file is empty") from None
        raise
    except RequestError as error:  # a redirect to another scheme, for one
        raise NoMediaFile(f"no media file: {error}") from None
    with contextlib.closing(response):
        try:
            beginning = response.read(_BEGINNING)
        except TransportError as error:
            raise BrokenOff(f"the answer broke off: {error}") from error
        url, kind = response.url, response.headers.get("Content-Type") or ""
        in_parts = response.status == 206
    if not beginning:
        raise NoMediaFile("the downloaded file is empty")
    if all(byte in _OF_TEXT for byte in beginning):
        raise NoMediaFile("no media file: the server sent a page or a playlist")
    for suffix in (Path(urlsplit(url).path).suffix[1:].lower(), mimetype2ext(kind)):
        if suffix in EXTENSIONS:
            return MediaFile(url, suffix, in_parts)
    raise NoMediaFile("no media file: the suffix is that of something else")


def download(youtube_dl: Any, file: MediaFile, target: Path) -> Path:
    """Download all of a file to `target` with its suffix, and return that path."""
    path = target.with_name(f"{target.name}.{file.suffix}")
    youtube_dl.params["outtmpl"]["default"] = str(path).replace("%", "%%")
    info = {"id": target.name, "title": target.name, "url": file.url, "ext": file.suffix}
    source = {"extractor": "direct", "extractor_key": "Direct", "webpage_url": file.url}
    youtube_dl.process_ie_result(info | source, download=True)
    return path


def cut_clip(
    youtube_dl: Any, file: MediaFile, target: Path, *, times: TimeRange, patience: float
) -> Path:
    """Cut the clip at `times` into `target`, an mp4 file, and return that path.

    Where a server gives whole files only, ffmpeg could not go to its start: the file is downloaded
    first. ffmpeg shall stop with an error where reading does (-xerror), not end with half a clip.
    """
    headers = dict(youtube_dl.params["http_headers"])
    seek = ["-ss", str(times.start)] if times.start else []
    if file.in_parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        source = [*ffmpeg_input(HTTP), *timeout(), "-headers", lines, *seek, "-i", file.url]
    else:
        whole = download(youtube_dl, file, target.parent / "whole" / "source")
        source = [*ffmpeg_input(FILE), *seek, "-i", f"file:{whole}"]
    try:
        cut(
            source,
            target,
            times.length,
            patience=patience,
            largest=most_bytes(times.length),
            output=["-xerror"],
        )
    except FfmpegStopped as stop:
        if file.in_parts and stop.code == FFMPEG_HTTP:
            refused_why(youtube_dl, file.url, headers)
        raise
    return target

"""yt-dlp, in this process: one clip at a time into a folder, under a name that we choose."""

import contextlib
import copy
import io
import os
import re
import shutil
import signal
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from clip4vla.config.data import Dataset
from clip4vla.errors import UserError
from clip4vla.media.cookies import checked_cookies, no_cookies
from clip4vla.media.cut import check_cut, most_bytes
from clip4vla.media.status import FFMPEG_HTTP, ffmpeg_code
from clip4vla.media.tools import deno, offer_ffmpeg

TOOL = f"yt-dlp {version('yt-dlp')}"
EXTENSIONS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "flv", "mpg", "mpeg", "ts", "3gp", "ogv")
MOST_REDIRECTS = 3  # from one address to another, each of which may redirect within itself
SOCKET_SECONDS = 20  # a silent server is given up after this
_FORMAT = "bv*[height<=480][ext=mp4]+ba[ext=m4a]/b[height<=480][ext=mp4]/b[height<=480]/bv*+ba/b"


_LASTING = re.compile(r"(?i)javascript runtime|remote component|solver script")


class NoMediaFile(Exception):
    """The server answered, but not with a media file."""


class Downloader:
    """Downloads clips into `folder`/.part; one instance per shard. Use as a context manager.

    Clips with start and end are cut by ffmpeg without re-encoding, always into mp4: by its edit
    list the file shows from `start` on exactly, though it holds the pictures since the key frame
    before. Other containers have no such list and would show what lies before the clip.
    Nothing is taken from the server but bytes and a suffix from EXTENSIONS.
    """

    def __init__(self, folder: Path, dataset: Dataset):
        self.part = folder / ".part"
        self.direct = dataset.source == "http"
        self._log = _Log()
        self.seconds = dataset.rate.clip_seconds
        offer_ffmpeg(folder / ".tools")
        if self.direct and _is_loopback(dataset.url or ""):
            _reach_loopback_directly()
        self._section: tuple[float, float] | None = None
        self._found: tuple[str, dict] | None = None
        self.youtube_dl = _youtube_dl(self._options(dataset))
        try:
            self.youtube_dl.cookiejar  # noqa: B018  (read now, not at the first request)
        except Exception:  # its text may have a cookie in it
            raise UserError(no_cookies(dataset.cookies, "yt-dlp cannot read it")) from None

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(self, *_) -> None:
        self.youtube_dl.close()
        shutil.rmtree(self.part, ignore_errors=True)

    def get(self, address: str, clip_id: str, start: float | None, end: float | None) -> Path:
        """Download one clip; the path of the one file, in .part, named by clip_id.

        Raises whatever yt-dlp raises (`status.classify` reads it), NoMediaFile, CutFailed, or
        TimeoutError when it takes longer than `rate.clip_seconds`.
        """
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        self._log.last.clear()
        self._section = None if start is None else (start, end)
        home = str(self.part).replace("%", "%%")
        self.youtube_dl.params["outtmpl"]["default"] = f"{home}/{clip_id}.%(ext)s"
        with deadline(self.seconds):
            info = self._look_up(address)
            self.youtube_dl.process_ie_result(copy.deepcopy(info), download=True)
        found = [path for path in self.part.iterdir() if path.suffix[1:] in EXTENSIONS]
        if len(found) != 1 or not found[0].is_file() or found[0].is_symlink():
            raise NoMediaFile("no media file came out of the download")
        if self._section is None:
            return found[0]
        cut = found[0].rename(found[0].with_suffix(".mp4"))
        check_cut(cut, end - start, most_bytes(end - start))
        return cut

    @property
    def warnings(self) -> list[str]:
        """What yt-dlp warned of, at the start and with the last clip."""
        return [] if self.direct else [*self._log.lasting, *self._log.last]

    def _look_up(self, address: str) -> dict:
        """What yt-dlp finds at an address; kept for the next clip, which often has the same."""
        if self._found is None or self._found[0] != address:
            info = self._extract(address)
            if self.direct:
                for _ in range(MOST_REDIRECTS):
                    if (info or {}).get("_type") == "url" and "title" not in info:
                        info = self._extract(info["url"])  # the server's own, not one of a page
                self._check_direct(info)
            elif (info or {}).get("_type", "video") != "video":
                raise NoMediaFile("no media file: the address is a list, not a video")
            self._found = (address, info)
        return self._found[1]

    def _extract(self, address: str) -> dict:
        return self.youtube_dl.extract_info(address, download=False, process=False)

    def _check_direct(self, info: dict) -> None:
        """A page, playlist or manifest could name any address: only the file itself will do."""
        formats = (info or {}).get("formats") or [info or {}]
        plain = [urlsplit(one.get("url", "")).scheme in ("http", "https") for one in formats]
        manifest = [one.get("protocol") not in (None, "http", "https") for one in formats]
        if not (info or {}).get("direct") or not all(plain) or any(manifest):
            raise NoMediaFile("no media file: the server sent a page or a playlist")
        for one in formats:
            if one.get("ext") not in EXTENSIONS:
                raise NoMediaFile("no media file: the suffix is that of something else")

    def _ranges(self, info, _) -> list[dict]:
        if self._section is None:
            return [{}]
        start, end = self._section
        if (info.get("duration") or end) <= start:
            raise NoMediaFile("no media file: the video ends before the clip begins")
        return [{"start_time": start, "end_time": end}]

    def _into_mp4(self) -> list[str]:
        """The first picture and the first sound track, which are those that are decoded.

        ffmpeg shall stop with an error where reading does (-xerror), not end with half a clip.
        """
        tracks = ["-map", "0:v:0?", "-map", "0:a:0?"] if self.direct else ["-sn", "-dn"]
        return [*tracks, "-xerror", "-f", "mp4"]

    def _options(self, dataset: Dataset) -> dict:
        youtube = dataset.source == "youtube"
        options = {
            "quiet": True,
            "no_warnings": True,
            "noprogress": True,
            "logger": self._log,
            "cachedir": False,
            "js_runtimes": {"deno": {"path": deno()}},
            "remote_components": [],  # scripts come from yt-dlp-ejs, never from the network
            "format": _FORMAT if youtube else "b/bv*+ba",
            "merge_output_format": "mp4",
            "outtmpl": {"default": ""},
            "allowed_extractors": ["youtube"] if youtube else ["generic"],
            "noplaylist": True,
            "download_ranges": self._ranges,
            "fixup": "never",
            "overwrites": True,
            "continuedl": False,
            "updatetime": False,
            "socket_timeout": SOCKET_SECONDS,
            "retries": 0,
            "extractor_retries": 0,
            "fragment_retries": 2,
            "file_access_retries": 0,
            "skip_unavailable_fragments": False,
            "external_downloader_args": {
                "ffmpeg_i": ["-rw_timeout", str(SOCKET_SECONDS * 1_000_000)],
                "ffmpeg_i1": ["-rw_timeout", str(SOCKET_SECONDS * 1_000_000)],
                "ffmpeg_i2": ["-rw_timeout", str(SOCKET_SECONDS * 1_000_000)],
                "ffmpeg_o": ["-fflags", "+bitexact", "-map_metadata", "-1", *self._into_mp4()],
            },
        }
        rate = dataset.rate
        options["ratelimit"] = rate.bytes_per_second
        if youtube:
            os.environ.setdefault("DENO_DIR", str(self.part.with_name(".tools") / "deno"))
            os.environ["DENO_NO_UPDATE_CHECK"] = "1"
            options["sleep_interval_requests"] = rate.request_pause
            options["sleep_interval"] = rate.clip_pause
            options["max_sleep_interval"] = 2.5 * rate.clip_pause
            if dataset.cookies:
                # A copy: yt-dlp writes back what it was given, and several jobs read this file.
                options["cookiefile"] = io.StringIO(checked_cookies(dataset.cookies))
        return options


def _youtube_dl(options: dict):
    """yt-dlp, which asks again by itself where ffmpeg was refused: ffmpeg does not say how."""
    from yt_dlp import YoutubeDL  # not before ffmpeg is on PATH: yt-dlp remembers what it found
    from yt_dlp.networking import Request
    from yt_dlp.utils import DownloadError

    class Asking(YoutubeDL):
        def dl(self, name, info, subtitle=False, test=False):
            try:
                return super().dl(name, info, subtitle, test)
            except DownloadError as error:
                if ffmpeg_code(error) != FFMPEG_HTTP:
                    raise
                for one in info.get("requested_formats") or [info]:
                    headers = {**(one.get("http_headers") or {}), "Range": "bytes=0-0"}
                    self.urlopen(Request(one["url"], headers=headers)).close()
                raise

    return Asking(options)


@contextlib.contextmanager
def deadline(seconds: float):
    """Raise TimeoutError in the block when its time is over. For the main thread.

    A server that sends a byte a second passes every socket timeout. The alarm rings again until
    the block ends, as a library may swallow the first one, or make an error of its own of it.
    """
    over = TimeoutError(f"timed out: not done in {seconds:.0f} s")
    rung = False

    def ring(*_):
        nonlocal rung
        rung = True
        raise over

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    except Exception:
        if rung:
            raise over from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Log:
    """Keeps yt-dlp's warnings; its errors arrive as exceptions.

    yt-dlp says only once that it lacks a JavaScript runtime or its scripts, but that holds for
    all videos that come after.
    """

    def __init__(self):
        self.lasting: list[str] = []
        self.last: list[str] = []

    def debug(self, message: str) -> None:
        pass

    info = error = debug

    def warning(self, message: str) -> None:
        if not _LASTING.search(message):
            self.last.append(message)
        elif message not in self.lasting:
            self.lasting.append(message)


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _reach_loopback_directly() -> None:
    """A proxy for the internet cannot reach a server on this machine."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        added = [host for host in ("127.0.0.1", "localhost") if host not in hosts]
        os.environ[name] = ",".join(hosts + added)

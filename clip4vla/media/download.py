"""One clip at a time into a folder, by yt-dlp and ffmpeg, under a name that we choose."""

import contextlib
import copy
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip4vla.config.data import Dataset
from clip4vla.media import direct
from clip4vla.media.cut import CutFailed, check_cut, check_tracks
from clip4vla.media.planned import TimeRange
from clip4vla.media.ytdlp import Log, NoMediaFile, youtube_dl


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
        self.rate = dataset.rate
        self.log = Log()
        self._times: TimeRange | None = None
        self._looked_up: tuple[str, direct.MediaFile | dict] | None = None
        self.youtube_dl = youtube_dl(dataset, folder / ".tools", self.log, self._ranges)

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(self, *_: object) -> None:
        self.youtube_dl.close()
        shutil.rmtree(self.part, ignore_errors=True)

    @property
    def warnings(self) -> list[str]:
        """yt-dlp's warnings, at the start and for the last clip."""
        return [] if self.direct else [*self.log.lasting, *self.log.last]

    def get(self, address: str, clip_id: str, times: TimeRange | None) -> Path:
        """Download a file, or its part at `times`, and return its path: in .part, named by clip_id.

        Raises whatever yt-dlp raises (`status.classify` reads it), NoMediaFile, CutFailed,
        FfmpegStopped, or TimeoutError when it takes longer than `rate.clip_seconds`.
        """
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        self.log.last.clear()
        self._times = times
        with deadline(self.rate.clip_seconds):
            looked_up = self._look_up(address)
            got = self._direct if self.direct else self._youtube
            path = got(looked_up, self.part / clip_id)
        if not path.is_file() or path.is_symlink():
            raise NoMediaFile("no media file came out of the download")
        return path

    def _look_up(self, address: str) -> Any:
        """Look up an address; keep the result for the next clip, which often has the same."""
        if self._looked_up is None or self._looked_up[0] != address:
            search = direct.look_up if self.direct else _of_youtube
            self._looked_up = (address, search(self.youtube_dl, address))
        return self._looked_up[1]

    def _direct(self, looked_up: direct.MediaFile, target: Path) -> Path:
        if self._times is None:
            return direct.download(self.youtube_dl, looked_up, target)
        clip = target.with_name(f"{target.name}.mp4")
        patience = 2 * self.rate.clip_seconds  # the alarm of `get` rings first
        return direct.cut_clip(
            self.youtube_dl, looked_up, clip, times=self._times, patience=patience
        )

    def _youtube(self, looked_up: dict, target: Path) -> Path:
        outputs = self.youtube_dl.params["outtmpl"]
        outputs["default"] = f"{target}.".replace("%", "%%") + "%(ext)s"
        info = self.youtube_dl.process_ie_result(copy.deepcopy(looked_up), download=True)
        files = [path for path in self.part.iterdir() if path.suffix[1:] in direct.EXTENSIONS]
        if len(files) != 1:
            raise NoMediaFile("no media file came out of the download")
        if self._times is None:
            return files[0]
        clip = files[0].rename(target.with_name(f"{target.name}.mp4"))
        check_cut(clip, self._times.length, self.rate.clip_bytes)
        check_tracks(clip, _kinds_of(info or {}), self._times.length)
        return clip

    def _ranges(self, info: dict[str, Any], _: object) -> list[dict[str, float]]:
        if self._times is None:
            return [{}]
        if (info.get("duration") or self._times.end) <= self._times.start:
            raise CutFailed("the video ends before the clip begins", final=True)
        return [{"start_time": self._times.start, "end_time": self._times.end}]


def _of_youtube(youtube_dl: Any, address: str) -> dict:
    info = youtube_dl.extract_info(address, download=False, process=False) or {}
    if info.get("_type", "video") != "video":
        raise NoMediaFile("no media file: the address is a list, not a video")
    return info


def _kinds_of(info: dict) -> list[str]:
    """Return the kinds of track in the downloaded formats; unknown codecs do not count."""
    formats = info.get("requested_formats") or [info]
    codecs = {"video": "vcodec", "audio": "acodec"}
    return [
        kind
        for kind, codec in codecs.items()
        if any(one.get(codec) not in (None, "none") for one in formats)
    ]


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when its time is over. For the main thread.

    A server that sends a byte a second passes every socket timeout. The alarm rings again until
    the block ends, as a library may swallow the first one, or make an error of its own of it.
    """
    over = TimeoutError(f"timed out: not done in {seconds:.0f} s")
    rung = False

    def ring(*_: object) -> None:
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

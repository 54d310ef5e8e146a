"""Media that the user already has: files below one folder, used where they are, never changed."""

import os
import shutil
import stat
from pathlib import Path
from typing import Any, Protocol

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.media.containers import FILE, ffmpeg_input
from clip4vla.media.cut import CutFailed, FfmpegStopped, cut, most_bytes
from clip4vla.media.isolated import Crashed, patience
from clip4vla.media.lengths import is_whole_video
from clip4vla.media.planned import PlannedClip, TimeRange
from clip4vla.media.status import FetchStatus

TOOL = "local"


class FetchedRow(Protocol):
    """A fetched clip: the columns of a fetch row, and `file` of the plan."""

    file: str
    path: str
    bytes: int
    sha256: str


def fetch_local(
    clip: PlannedClip, media: Path, folder: Path, cut_longer: bool = False
) -> dict[str, Any]:
    """Return the fetch record of one planned clip.

    A file that is the clip is used as it is, without a copy. A longer source is cut without
    re-encoding into `folder`/<clip_id>.mp4; so is, with `cut_longer`, a whole video under a clip's
    name. Raises UserError for a path that leads out of `media`.
    """
    source = source_file(clip.clip_id, clip.file, media)
    if problem := unreadable(source):
        return _row(clip.clip_id, FetchStatus.GONE, f"{problem}: {source}")
    detail, times = "", clip.times
    if times is None:
        times = clip.annotated
        if not cut_longer or times is None or not is_whole_video(source, times):
            return _row(clip.clip_id, FetchStatus.OK, "", source)
        detail = f"cut from {source}, longer than annotated"
    try:
        path = _cut(source, folder, clip.clip_id, times)
    except (Crashed, CutFailed, FfmpegStopped) as error:
        why = str(error).removeprefix("cut failed: ")
        return _row(clip.clip_id, FetchStatus.CUT_FAILED, f"cut failed: {source}: {why}")
    return _row(clip.clip_id, FetchStatus.OK, detail, path)


def source_file(clip_id: str, file: str, media: Path) -> Path:
    """Return the path of a clip's file. Raises UserError for one that leads out of `media`."""
    source = media / file
    if not Path(os.path.realpath(source)).is_relative_to(os.path.realpath(media)):
        raise UserError(
            f"{clip_id}: {source} leads out of {media}. "
            "Fix: set `media` to the folder that really holds the files"
        )
    return source


def has_changed(row: FetchedRow, media: Path, folder: Path, since: float) -> bool:
    """Return whether a user's file has changed since its fetched row (with `file`) was written.

    `since` is when the row was written. A file that is newer by one of its times (`cp -p` resets
    only one) is compared by its hash; a source that was cut into `folder` has none and counts as
    changed.
    """
    source = media / row.file
    try:
        status = os.stat(source)
    except OSError:
        return True
    was_cut = Path(row.path).parent == folder
    if not was_cut and (row.path != str(source) or status.st_size != row.bytes):
        return True
    if max(status.st_mtime, status.st_ctime) < since:
        return False
    return was_cut or sha256_of_file(source) != row.sha256


def unreadable(source: Path) -> str:
    """Return why a file cannot be read, such as a link to itself or a closed folder; else ""."""
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            return "not a regular file"
        with open(source, "rb") as stream:
            stream.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def _cut(source: Path, folder: Path, clip_id: str, times: TimeRange) -> Path:
    part = folder / ".part"
    part.mkdir(parents=True, exist_ok=True)
    made, final = part / f"{clip_id}.mp4", folder / f"{clip_id}.mp4"
    options = [*ffmpeg_input(FILE), "-ss", str(times.start), "-i", f"file:{source}"]
    try:
        cut(
            options,
            made,
            times.length,
            patience=patience(source),
            largest=most_bytes(times.length) + source.stat().st_size,
        )
        os.replace(made, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final


def _row(clip_id: str, fetch: FetchStatus, detail: str, path: Path | None = None) -> dict[str, Any]:
    return {
        "clip_id": clip_id,
        "fetch": fetch,
        "detail": detail,
        "path": str(path) if path else "",
        "bytes": path.stat().st_size if path else 0,
        "sha256": sha256_of_file(path) if path else "",
        "tool": TOOL,
    }

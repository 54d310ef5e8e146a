"""The media files of folders, and lists of those that are left out, each with the reason."""

import errno
import mimetypes
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.common.log import log
from clip4vla.common.progress import track
from clip4vla.media.isolated import Crashed, Isolated, patience
from clip4vla.search.media import is_media

NAMED = 20  # failed inputs that are listed on stderr


def media_files(sources: Sequence[Path]) -> list[Path]:
    """Return files as given, and the media files of folders and their subfolders, sorted by path.

    A file of a folder is recognised by its name, or else by its content; hidden files are skipped.
    Raises UserError for a missing path and for a folder without media.
    """
    files: list[Path] = []
    for source in sources:
        if not source.exists():
            raise UserError(f"{source}: no such file or folder. Fix: correct the path")
        if not source.is_dir():
            files.append(source)
            continue
        visible, skipped = files_inside(source)
        name_some({str(path): f"skipped: {why}" for path, why in skipped.items()})
        media = media_among(visible, f"look into {source}")
        if not media:
            raise UserError(f"{source}: no sound or video file in it. Fix: give another folder")
        log.info(f"{source}: {len(media)} media files of {len(visible)} files")
        files += media
    return list(dict.fromkeys(files))


def media_among(files: Sequence[Path], description: str) -> list[Path]:
    """Return the media files among files, which are recognised by name, or else by content."""
    with Isolated(is_media) as isolated:
        return [path for path in track(files, description) if _is_media(path, isolated)]


def files_inside(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the visible files below a folder, sorted, and others with the reason to skip them."""
    files: list[Path] = []
    skipped: dict[Path, str] = {}

    def closed(error: OSError) -> None:
        skipped[Path(error.filename)] = error.strerror or str(error)

    for where, folders, names in os.walk(folder, onerror=closed):
        folders[:] = [name for name in folders if name[0] != "."]
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        skipped |= {Path(where, name): "a link to a folder" for name in links}
        for path in (Path(where, name) for name in names if name[0] != "."):
            if problem := _problem(path):
                skipped[path] = problem
            else:
                files.append(path)
    return sorted(files), skipped


def _problem(path: Path) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "not a regular file"
    except OSError as error:
        return error.strerror or str(error)
    return "" if os.access(path, os.R_OK) else os.strerror(errno.EACCES)


def _is_media(path: Path, isolated: Isolated) -> bool:
    kind = mimetypes.guess_type(path.name)[0] or ""
    if kind.startswith(("audio/", "video/")):
        return True
    try:
        return isolated(path, patience(path))
    except Crashed:  # reading it reports the failure
        return True


def name_some(reasons: dict[str, str], where: str = "") -> None:
    """Log the first inputs of some, each with its reason."""
    for name, why in list(reasons.items())[:NAMED]:
        line = why if name in why else f"{name}: {why}"
        log.info(line if line.isprintable() else ascii(line))
    if len(reasons) > NAMED:
        log.info(f"and {len(reasons) - NAMED} more{where}")

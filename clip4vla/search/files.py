"""The media files of folders, and lists of those that are left out, each with the reason."""

import errno
import mimetypes
import os
import stat
from collections.abc import Container, Sequence
from pathlib import Path

from clip4vla.common.errors import UserError, on_one_line
from clip4vla.common.log import log
from clip4vla.common.progress import track
from clip4vla.media.isolated import Crashed, Isolated, patience
from clip4vla.search.changes import Stamp
from clip4vla.search.media import is_media

NOT_UTF8 = "its name is not valid UTF-8"
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


def indexable(
    folder: Path, index: Path, known: Container[str]
) -> tuple[dict[str, Stamp], dict[str, str]]:
    """Return the media files of a folder by path below it, and others with the reason to skip them.

    index: a folder that is left out. known: paths that need no look into their content.
    """
    visible, problems = files_inside(folder)
    skipped = {str(path.relative_to(folder)): why for path, why in problems.items()}
    media: list[Path] = []
    unknown: list[Path] = []
    for path in visible:
        name = path.relative_to(folder).as_posix()
        if path.is_relative_to(index):
            continue
        if why := _unfit(path, name):
            skipped[name] = why
        else:
            (media if name in known else unknown).append(path)
    media += media_among(unknown, f"look into {folder.name}")
    stamps = {path.relative_to(folder).as_posix(): stamp_of(path) for path in media}
    return {name: stamp for name, stamp in stamps.items() if stamp is not None}, skipped


def stamp_of(path: Path) -> Stamp | None:
    """Return the size and the time of a file; None if it is gone."""
    try:
        about = path.stat()
    except OSError:
        return None
    return Stamp(about.st_size, about.st_mtime_ns)


def _unfit(path: Path, name: str) -> str:
    """Return why a file of the folder is not indexed, or ""."""
    if path.is_symlink():
        return "a link; what it points to is indexed only where it is"
    return "" if _is_utf8(name) else NOT_UTF8


def check_utf8(*paths: Path | str) -> None:
    """Raise UserError for a path that no table can hold: names of Linux are any bytes."""
    for path in map(str, paths):
        if not _is_utf8(path):
            raise UserError(f"{path}: {NOT_UTF8}. Fix: rename it")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def name_some(reasons: dict[str, str], where: str = "") -> None:
    """Log the first inputs of some, each with its reason."""
    for name, why in list(reasons.items())[:NAMED]:
        log.info(on_one_line(f"{name}: {why}"))
    if len(reasons) > NAMED:
        log.info(f"and {len(reasons) - NAMED} more{where}")

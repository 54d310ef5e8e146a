"""The programs that fetching starts, as their wheels bring them: ffmpeg and deno."""

import os
from pathlib import Path


def ffmpeg() -> str:
    """Return the path of the ffmpeg binary that comes with imageio-ffmpeg."""
    import imageio_ffmpeg  # of the extra `fetch`, which files that are not cut do not need

    return imageio_ffmpeg.get_ffmpeg_exe()


def deno() -> str:
    """Return the path of the JavaScript runtime that comes with the package deno.

    yt-dlp solves YouTube's challenges with it; without it, most formats are missing.
    """
    try:
        from deno import find_deno_bin

        return find_deno_bin()
    except (ImportError, OSError):
        return "deno"  # of the system, if there is one


def offer_ffmpeg(tools: Path) -> None:
    """Put a folder with a link named ffmpeg first on PATH."""
    tools.mkdir(parents=True, exist_ok=True)
    link = tools / "ffmpeg"
    if not link.is_symlink() or os.readlink(link) != ffmpeg():
        link.unlink(missing_ok=True)
        link.symlink_to(ffmpeg())
    path = os.environ.get("PATH", "").split(os.pathsep)
    here = str(tools.resolve())
    if path[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, *(p for p in path if p != here)])

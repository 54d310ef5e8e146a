"""A cookies.txt, checked before yt-dlp reads it: no message may have a cookie in it."""

import re
from pathlib import Path

from clip4vla.common.errors import UserError

_COOKIE_HEADER = re.compile(r"#( Netscape)? HTTP Cookie File")
_COOKIE = re.compile(
    r"(\.[^\t]*\tTRUE|[^\t.][^\t]*\tFALSE)\t[^\t]*\t(TRUE|FALSE)\t(\d+(\.\d+)?)?\t[^\t]*\t[^\t]*"
)


def checked_cookies(path: Path) -> str:
    """Return the text of a cookies.txt. Checked here, as yt-dlp prints a line that it cannot read.

    Raises UserError, which names the line but never quotes it: it holds a secret.
    """
    text, cookies = path.read_text(errors="replace"), 0
    if not _COOKIE_HEADER.match(text):
        raise UserError(invalid_cookies(path, "line 1 must be `# Netscape HTTP Cookie File`"))
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removeprefix("#HttpOnly_")  # a mark before a cookie, not a comment
        if not line.strip() or line.startswith("#"):
            continue
        if not _COOKIE.fullmatch(line):
            columns = (
                "domain, TRUE or FALSE (TRUE where the domain begins with a dot), path, TRUE or "
                "FALSE, a number, name and value, with tabs between them"
            )
            raise UserError(invalid_cookies(path, f"line {number} must have {columns}"))
        cookies += 1
    if not cookies:
        raise UserError(invalid_cookies(path, "it holds no cookie"))
    return text


def invalid_cookies(path: Path, why: str) -> str:
    """Return the message for a file that is not a valid cookies.txt."""
    return f"cookies: {path}: not in Netscape's format: {why}. Fix: export the file again"

"""Errors that the user can fix: one line with the place, the problem and the fix."""

import difflib
import errno
import os
from collections.abc import Iterable

EXIT_USER_ERROR = 78  # EX_CONFIG of sysexits.h: the user has to fix it, retrying cannot help
EXIT_FAILURE = 1  # of a machine or of the program: a retry may succeed
EXIT_RETRY = 75  # EX_TEMPFAIL of sysexits.h: saved and stopped, run the same command again

FIXABLE = {  # errors that the user can fix, unlike a lost server or a broken disk, and how
    errno.ENOSPC: "the disk is full. Fix: free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up. Fix: free some space and run the same command again",
    errno.EFBIG: "the file would be too large. Fix: raise `ulimit -f`, or choose another disk",
    errno.EROFS: "the file system is read-only. Fix: choose another folder",
    errno.EACCES: "no permission. Fix: change its permissions, or choose another place",
    errno.EPERM: "not permitted. Fix: change its permissions, or choose another place",
    errno.ENOENT: "no such file or folder. Fix: correct the path",
    errno.EEXIST: "exists already. Fix: choose another name, or move it away",
    errno.ENOTDIR: "not a folder. Fix: correct the path",
    errno.EISDIR: "a folder. Fix: name a file",
    errno.ENOTEMPTY: "not empty. Fix: choose another folder",
    errno.ELOOP: "a link that leads back to itself. Fix: correct the path",
    errno.ENAMETOOLONG: "its name is too long. Fix: choose a shorter one",
    errno.EMFILE: "too many open files. Fix: raise `ulimit -n`",
    errno.EADDRINUSE: "the port is in use. Fix: choose another one",
}


class Lines(Exception):
    """An error whose message is one line, or one for each of several problems.

    A line end in a name or text of a file is escaped, so that it begins no other line.
    """

    def __str__(self) -> str:
        return "\n".join(str(line).replace("\n", "\\n") for line in self.args)


class UserError(Lines, ValueError):
    """An error in the user's input. Its message is one line: `PLACE: PROBLEM. Fix: ACTION.`"""


class RetryLater(Lines, RuntimeError):
    """Work saved itself and stopped; the same command resumes it (exit code 75)."""


def did_you_mean(name: str, known: Iterable[str], listed: str | None = None) -> str:
    """Return the end of a message on an unknown name: the nearest known name, or all, and a fix.

    listed: the command that lists the known names, if they are too many for a message.
    """
    known = list(known)
    if near := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean {near[0]}? Fix: correct the name"
    if listed:
        return f". Fix: choose one of `{listed}`"
    if not known:
        return "; none is known. Fix: remove it"
    return f"; known: {', '.join(known)}. Fix: choose one of them"


def printable(text: str) -> str:
    """Return a text with control characters escaped, except line ends.

    Names in files may contain sequences that move the cursor, so this is applied to all of them
    that a terminal shows.
    """
    marks = (
        mark if mark == "\n" or mark.isprintable() else mark.encode("unicode_escape").decode()
        for mark in text
    )
    return "".join(marks)


def on_one_line(text: str) -> str:
    """Return a text with all control characters escaped, line ends as well: one cell or line."""
    return printable(text).replace("\n", "\\n")


def exit_code_of(error: OSError) -> int:
    """Return the exit code of a command with this error: 78 if the user can fix it, else 1."""
    return EXIT_USER_ERROR if error.errno in FIXABLE else EXIT_FAILURE


def describe_os_error(error: OSError) -> str:
    """Return one line with the problem and fix of an error of a disk or a folder."""
    place = error.filename or f"below {os.getcwd()}"  # a full disk is reported without a name
    problem = FIXABLE.get(error.errno or 0)
    if problem is None:  # of a machine, which a second try may not meet
        problem = f"{error.strerror or error}. Fix: run the same command again"
    return f"{os.fspath(place)}: {problem}"

"""Errors that are the user's to mend: one line with the thing and the remedy, no stack trace."""

import difflib
import errno
import os
from collections.abc import Iterable

EXIT_USER_ERROR = 78  # EX_CONFIG of sysexits.h: only the user can mend it, retrying cannot help
EXIT_FAILURE = 1  # of a machine or of the program: the same command may do better next time
EXIT_RETRY = 75  # EX_TEMPFAIL of sysexits.h: stopped in good order, run the same command again

MENDABLE = {  # what the user can do something about; a lost server or a broken disk is none of it
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EMFILE, errno.EADDRINUSE),
}


class UserError(ValueError):
    """A mistake of the user or of their files. The message is one line: what, where, remedy."""


class RetryLater(RuntimeError):
    """Work stopped in good order and goes on when the same command runs again (exit code 75)."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: the nearest of those that there are, or all."""
    known = list(known)
    near = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known) or 'none'}"


def printable(text: str) -> str:
    """Return a text with control characters escaped: names in files may hold what moves a cursor.

    Line ends stay. Applied to all that a terminal shows of a file's own names.
    """
    marks = (
        mark if mark == "\n" or mark.isprintable() else mark.encode("unicode_escape").decode()
        for mark in text
    )
    return "".join(marks)


def exit_code_of(error: OSError) -> int:
    """Of a command that fails by it: 78 where the user can mend it, else 1, to be tried again."""
    return EXIT_USER_ERROR if error.errno in MENDABLE else EXIT_FAILURE


def describe_os_error(error: OSError) -> str:
    """One line with a remedy for the failures of disks and folders that users meet."""
    where = error.filename or f"below {os.getcwd()}"  # a full disk is reported without a name
    remedies = {
        "ENOSPC": "the disk is full: free some space and run the same command again",
        "EDQUOT": "your disk quota is used up: free some space and run the same command again",
        "EROFS": "the file system is read-only: choose another folder",
        "EACCES": "no permission: make the folder writable or choose another one",
        "ENOENT": "no such file or folder",
        "EADDRINUSE": "the port is in use: choose another one",
    }
    name = errno.errorcode.get(error.errno, "") if error.errno else ""
    return f"{os.fspath(where)}: {remedies.get(name, error.strerror or str(error))}"

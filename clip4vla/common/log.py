"""The logger of all rooms. Its lines go to stderr: `clip4vla: warning: ...`, or plain text."""

import logging
import sys

from clip4vla.common.errors import on_one_line

log = logging.getLogger("clip4vla")


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the text of a record; that of a warning on one line, whatever names it holds."""
        if record.levelno < logging.WARNING:
            return record.message
        return f"clip4vla: {record.levelname.lower()}: {on_one_line(record.message)}"


class _StderrHandler(logging.Handler):
    """A handler that looks sys.stderr up at every line, because tests and notebooks replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


if not log.handlers:
    _handler = _StderrHandler()
    _handler.setFormatter(_Formatter())
    log.addHandler(_handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # a library that configures the root logger would print lines twice

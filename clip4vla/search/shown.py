"""What was found, as a table for people, JSON or CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from clip4vla.common.console import console, table
from clip4vla.common.errors import on_one_line
from clip4vla.search.index import Index
from clip4vla.search.query import Hit


def rows_of(index: Index, hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Return hits as rows of plain values, best first."""
    return [
        {
            "rank": rank,
            "path": str(index.media / hit.window.path),
            "start": hit.window.start,
            "end": hit.window.end,
            "score": hit.score,
            "picture": hit.picture,
            "sound": hit.sound,
            "rescored": hit.rescored,
            "row": hit.window.row,
        }
        for rank, hit in enumerate(hits, 1)
    ]


def csv_text(index: Index, hits: Sequence[Hit]) -> str:
    """Return hits as CSV with a header."""
    stream = io.StringIO()
    columns = ["rank", "path", "start", "end", "score", "picture", "sound", "rescored", "row"]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(index, hits))
    return stream.getvalue()


def show(hits: Sequence[Hit]) -> None:
    """Print hits as a table with times, or that there are none."""
    if not hits:
        console().print("Nothing in this index can answer that query.")
        return
    shown = table("", "file", "from", "to", "score", "picture", "sound")
    for rank, hit in enumerate(hits, 1):
        shown.add_row(
            str(rank),
            on_one_line(hit.window.path),
            clock(hit.window.start),
            clock(hit.window.end),
            f"{hit.score:.3f}",
            "" if hit.picture is None else f"{hit.picture:.3f}",
            "" if hit.sound is None else f"{hit.sound:.3f}",
        )
    console().print(shown)


def clock(seconds: float) -> str:
    """Return a time as H:MM:SS.s, or M:SS.s below an hour."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{rest // 10:02}.{rest % 10}"

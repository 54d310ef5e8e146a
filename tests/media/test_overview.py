"""What a user is told to do about clips that are not there."""

import pandas as pd
import pytest

from clip4vla.media.ledger import LEDGER_COLUMNS
from clip4vla.media.overview import by_status


@pytest.mark.parametrize(
    ("source", "status", "advice"),
    [
        ("youtube", "format_unavailable", "run `clip4vla doctor`, update yt-dlp"),
        ("http", "format_unavailable", "read `detail` in missing.tsv"),
        ("local", "gone", "put the files into `media`"),
        ("http", "gone", "for good"),
    ],
)
def test_advice_fits_the_source(source, status, advice):
    row = {"clip_id": "a", "file": "a.mp4", "fetch": status, "video": "not_fetched"}
    rows = pd.DataFrame([row]).reindex(columns=list(LEDGER_COLUMNS)).astype(LEDGER_COLUMNS | {
        name: "Float64" for name, kind in LEDGER_COLUMNS.items() if kind in ("int64", "bool")
    })  # fmt: skip
    (found,) = by_status(rows, source)
    assert found["status"] == status and found["advice"].startswith(advice)

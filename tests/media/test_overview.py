"""The advice on missing clips."""

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
        ("http", "cut_failed", "`clip4vla data retry`, or cut it yourself"),
        ("local", "cut_failed", "read `detail` in missing.tsv, replace the file"),
    ],
)
def test_advice_fits_the_source(source, status, advice):
    row = {"clip_id": "a", "file": "a.mp4", "fetch": status, "video": "not_fetched"}
    rows = pd.DataFrame([row]).reindex(columns=list(LEDGER_COLUMNS)).astype(LEDGER_COLUMNS | {
        name: "Float64" for name, kind in LEDGER_COLUMNS.items() if kind in ("int64", "bool")
    })  # fmt: skip
    (found,) = by_status(rows, source)
    assert found["status"] == status and found["advice"].startswith(advice)


def test_damaged_sound_is_not_called_unused():
    """Pictures and sound have a status of the same name; only without pictures is a clip unused."""
    rows = pd.DataFrame({"clip_id": ["a", "b"], "file": "a.mp4", "fetch": "ok"})
    rows = rows.assign(video=["ok", "decode_error"], audio=["decode_error", "ok"], length="ok")
    found = {one["part"]: one["advice"] for one in by_status(rows)}
    assert found["video"] == "the file is damaged: not used"
    assert found["audio"] == "damaged, so silent: `missing_audio` decides"

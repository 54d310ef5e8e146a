import pandas as pd
import pytest

from clip4vla.common.errors import UserError
from clip4vla.datasets.plan import PLAN_COLUMNS, SPLIT_COLUMNS
from clip4vla.media.fetch import FETCH_COLUMNS
from clip4vla.media.ledger import (
    LEDGER_COLUMNS,
    build_ledger,
    check_coverage,
    coverage,
    missing,
    usable,
)
from clip4vla.media.overview import by_status
from clip4vla.media.probe import PROBE_COLUMNS, ProbeResult

CASES = {  # clip: fetch, video, audio
    "a": ("ok", "ok", "ok"),
    "b": ("ok", "ok", "digital_silence"),
    "c": ("ok", "decode_error", "ok"),
    "d": ("gone", "not_fetched", "not_fetched"),
    "e": ("ok", "ok", "ok"),
    "f": ("ok", "ok", "ok"),  # not planned
}


def tables(order="edcba"):
    plan = [(c, c, f"{c}.mp4", None, None, "unknown", 0, None, None) for c in "abcde"]
    fetch = [(c, CASES[c][0], "why", "", 0, "", "t") for c in order]
    probe = [
        {"clip_id": c} | vars(ProbeResult(video=CASES[c][1], audio=CASES[c][2]))
        for c in reversed(order)
    ]
    return (
        pd.DataFrame(plan, columns=list(PLAN_COLUMNS)).astype(PLAN_COLUMNS),
        pd.DataFrame(fetch, columns=list(FETCH_COLUMNS)).astype(FETCH_COLUMNS),
        pd.DataFrame(probe, columns=list(PROBE_COLUMNS)).astype(PROBE_COLUMNS),
    )


def splits():
    items = [("test", c, ["x"], "") for c in "de"] + [("train", c, ["x"], "") for c in "abc"]
    return pd.DataFrame(items, columns=list(SPLIT_COLUMNS)).astype(SPLIT_COLUMNS)


def test_one_row_per_clip_whatever_the_order_of_the_shards():
    ledger = build_ledger(*tables())
    assert list(ledger.clip_id) == list("abcde") and list(ledger.columns) == list(LEDGER_COLUMNS)
    assert ledger.equals(build_ledger(*tables("badce")))
    assert list(usable(ledger)) == [True, True, False, False, True]


@pytest.mark.parametrize("order", ["abcd", "abcdee", "abcdf"])
def test_a_clip_without_its_row_is_an_error(order):
    with pytest.raises(ValueError, match="exactly one row"):
        build_ledger(*tables(order))


def test_coverage_counts_every_clip():
    table = coverage(build_ledger(*tables()), splits(), {"train": 5, "val": 7})
    assert list(table.columns) == [
        "split", "expected", "planned", "fetched", "with_video", "with_sound", "silent",
        "fetch_gone", "video_decode_error", "audio_digital_silence",
    ]  # fmt: skip
    assert table.astype(object).where(table.notna(), None).to_numpy().tolist() == [
        ["test", None, 2, 1, 1, 1, 0, 1, 0, 0],
        ["train", 5, 3, 3, 2, 1, 1, 0, 1, 1],
        ["val", 7, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert table.to_csv(index=False).splitlines()[1] == "test,,2,1,1,1,0,1,0,0"


def test_too_little_coverage_is_one_line_by_status():
    ledger = build_ledger(*tables())
    check_coverage(ledger, "mine", 0.6)
    with pytest.raises(UserError) as caught:
        check_coverage(ledger, "mine", 0.61)
    message = str(caught.value)
    assert "3 of 5" in message and "1 fetch gone, 1 video decode_error" in message
    assert "datasets.mine.min_coverage" in message and "\n" not in message


def test_missing_lists_silent_clips_too():
    found = missing(build_ledger(*tables()))
    assert list(found.clip_id) == ["b", "c", "d"]
    assert list(found.retry) == ["", "", "never"]  # what was fetched is asked for no more
    assert found.detail[2].startswith("why")


def test_unused_parts_of_files_are_kept_and_older_tables_lack_them():
    plan, fetch, probe = tables()
    told = probe.assign(left_out=probe.clip_id.map({"a": "half"}).fillna(""))
    assert list(build_ledger(plan, fetch, told).left_out) == ["half", "", "", "", ""]
    assert list(build_ledger(plan, fetch, probe.drop(columns="left_out")).left_out) == [""] * 5


def test_a_clip_of_whose_file_a_part_is_not_used_is_listed():
    plan, fetch, probe = tables()
    told = probe.assign(left_out=probe.clip_id.map({"a": "the sound in the last 9%"}).fillna(""))
    ledger = build_ledger(plan, fetch, told)
    found = missing(ledger)
    assert list(found.clip_id) == ["a", "b", "c", "d"]
    assert found.detail[0] == "why; not used: the sound in the last 9%"
    rows = [row for row in by_status(ledger) if row["part"] == "file"]
    assert [(row["status"], row["clips"]) for row in rows] == [("left_out", 1)]
    assert not [row for row in by_status(build_ledger(*tables())) if row["part"] == "file"]

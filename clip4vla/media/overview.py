"""The progress of a dataset version at any stage: the outcome of its clips, and advice."""

from typing import Any

import pandas as pd

from clip4vla.media.ledger import LEDGER_COLUMNS, usable
from clip4vla.media.lengths import FLAGS, Length, lengths
from clip4vla.media.status import AudioStatus, FetchStatus, VideoStatus

OUTCOMES = (  # every clip has exactly one
    "with sound",
    "silent",
    "no usable video",
    "refused for now",
    "gone for good",
    "not done yet",
)
_ADVICE = {
    "now": "failed three times: `clip4vla data retry` after a pause",
    "later": "`clip4vla data retry` after a pause",
    "never": "for good",
}
# By part and status, as two parts have statuses of one name.
_MORE_ADVICE: dict[tuple[str, str], str] = {
    ("fetch", FetchStatus.AGE_RESTRICTED): "set `cookies`, then `clip4vla data retry --now`",
    ("fetch", FetchStatus.LOGIN_OR_BOT_CHECK): (
        "wait, or set `cookies`, then `clip4vla data retry --now`"
    ),
    ("fetch", FetchStatus.CUT_FAILED): (
        "`clip4vla data retry`, or cut it yourself and use `source: local`"
    ),
    ("fetch", FetchStatus.FORMAT_UNAVAILABLE): (
        "read `detail` in missing.tsv, then `clip4vla data retry`"
    ),
    ("fetch", FetchStatus.UNKNOWN): "read `detail` in missing.tsv, then `clip4vla data retry`",
    ("video", VideoStatus.DECODE_ERROR): "the file is damaged: not used",
    ("video", VideoStatus.NO_VIDEO_STREAM): "not used",
    ("video", VideoStatus.TOO_SHORT): "not used",
    ("video", VideoStatus.TOO_LONG): "over an hour: cut it, or give its `start` and `end`",
    ("audio", AudioStatus.DECODE_ERROR): "damaged, so silent: `missing_audio` decides",
    ("audio", AudioStatus.TOO_LONG): "over an hour: cut it, or give its `start` and `end`",
}
_LOCAL_ADVICE: dict[str, str] = {
    FetchStatus.GONE: "put the files into `media`, then `clip4vla data retry`",
    FetchStatus.CUT_FAILED: (
        "read `detail` in missing.tsv, replace the file, then `clip4vla data retry`"
    ),
}
_LENGTH_ADVICE = {  # (flag, whether it can be cut or replaced here)
    (Length.LONGER, True): "used as it is; whole videos under clip names? set `cut_longer: true`",
    (Length.LONGER, False): "used as it is: look at some of them",
    (Length.SHORTER, True): "used as it is; replace the file, then `clip4vla data retry`",
    (Length.SHORTER, False): "used as it is: the source ends early, or a part is missing",
}


def so_far(plan: pd.DataFrame, fetch: pd.DataFrame, probe: pd.DataFrame) -> pd.DataFrame:
    """Return the ledger so far; statuses are missing values where a stage is not done yet.

    Rows of `probe` from before the file was fetched (at another attempt) are ignored.
    """
    rows = plan.merge(fetch.drop_duplicates("clip_id", keep="last"), on="clip_id", how="left")
    probed = rows[["clip_id", "fetch"]].merge(probe, on="clip_id")
    fetched = probed["fetch"].fillna("") == FetchStatus.OK
    stale = fetched & (probed["video"] == VideoStatus.NOT_FETCHED) | probed["fetch"].isna()
    probe = probed[~stale].drop(columns="fetch").drop_duplicates("clip_id", keep="last")
    rows = rows.merge(probe, on="clip_id", how="left")
    rows = rows.reindex(columns=list(LEDGER_COLUMNS))
    rows = rows.assign(length=lengths(rows))
    return rows.sort_values("clip_id", ignore_index=True)


def outcomes(rows: pd.DataFrame) -> pd.Series:
    """Return one of OUTCOMES for every row of a ledger, complete or so far."""
    retry = rows["fetch"].map(lambda status: FetchStatus(status).retry, na_action="ignore")
    good = usable(rows.fillna({"fetch": "", "video": "", "audio": ""}))
    fetched, failed = rows["fetch"] == FetchStatus.OK, rows["fetch"] != FetchStatus.OK
    outcome = pd.Series("not done yet", index=rows.index, dtype="string")
    failed &= rows["fetch"].notna()
    outcome[failed & (retry == "never")] = "gone for good"
    outcome[failed & (retry != "never")] = "refused for now"
    outcome[fetched & rows["video"].notna() & ~good] = "no usable video"
    outcome[good] = "silent"
    outcome[good & (rows["audio"] == AudioStatus.OK).fillna(False)] = "with sound"
    return outcome


def by_split(rows: pd.DataFrame, splits: pd.DataFrame, expected: dict[str, int]) -> pd.DataFrame:
    """Count clips by split and outcome: split, expected (or missing), planned, then OUTCOMES."""
    outcome = outcomes(rows).set_axis(rows["clip_id"])
    table = []
    for split in sorted(set(splits["split"]) | set(expected)):
        ids = splits.loc[splits["split"] == split, "clip_id"].unique()
        counts = outcome[outcome.index.isin(ids)].value_counts()
        row = {"split": split, "expected": expected.get(split), "planned": int(counts.sum())}
        table.append(row | {name: int(counts.get(name, 0)) for name in OUTCOMES})
    return pd.DataFrame(table, columns=["split", "expected", "planned", *OUTCOMES])


def by_status(
    rows: pd.DataFrame, source: str = "http", cut_longer: bool = False
) -> list[dict[str, Any]]:
    """Return every status that occurs, other than ok: {part, status, clips, advice}.

    `source` and `cut_longer` are the dataset's: a file that is not in a local folder may be put
    there, and one that is too long may be cut.
    """
    lines: list[dict[str, Any]] = []
    for part, statuses in (("fetch", FetchStatus), ("video", VideoStatus), ("audio", AudioStatus)):
        counts = rows[part].value_counts()
        for status in statuses:
            if status in ("ok", "not_fetched") or not counts.get(status, 0):
                continue
            if isinstance(status, FetchStatus):
                advice = _fetch_advice(status, source)
            else:
                advice = _MORE_ADVICE.get((part, status), "silent: `missing_audio` decides")
            lines.append(
                {"part": part, "status": status, "clips": int(counts[status]), "advice": advice}
            )
    good = rows[usable(rows.fillna({"fetch": "", "video": "", "audio": ""}))]
    if count := int(good.get("left_out", pd.Series(dtype="string")).fillna("").ne("").sum()):
        advice = "used without it: see `detail` in missing.tsv"
        lines.append({"part": "file", "status": "left_out", "clips": count, "advice": advice})
    for flag in FLAGS:
        if count := int((good["length"] == flag).sum()):
            advice = _LENGTH_ADVICE[flag, source == "local" and not cut_longer]
            lines.append({"part": "length", "status": flag, "clips": count, "advice": advice})
    return lines


def _fetch_advice(status: FetchStatus, source: str) -> str:
    """Return what can be done about clips with one fetch status from one kind of source."""
    if source == "local" and status in _LOCAL_ADVICE:
        return _LOCAL_ADVICE[status]
    if source == "youtube" and status == FetchStatus.FORMAT_UNAVAILABLE:
        return "run `clip4vla doctor`, update yt-dlp, then `clip4vla data retry`"
    return _MORE_ADVICE.get(("fetch", status), _ADVICE[status.retry])

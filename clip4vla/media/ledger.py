"""The ledger, one row per planned clip with its statuses, and the counts made from it."""

import pandas as pd

from clip4vla.common.errors import UserError
from clip4vla.datasets.plan import PLAN_COLUMNS
from clip4vla.media.fetch import FETCH_COLUMNS
from clip4vla.media.lengths import FLAGS, Length, described, lengths
from clip4vla.media.probe import PROBE_COLUMNS
from clip4vla.media.status import AudioStatus, FetchStatus, VideoStatus

LEDGER_COLUMNS = PLAN_COLUMNS | FETCH_COLUMNS | PROBE_COLUMNS | {"length": "string"}
MISSING_COLUMNS = ("clip_id", "source_id", "fetch", "video", "audio", "length", "retry", "detail")
IDS = ("clip_id", "source_id")  # of MISSING_COLUMNS: identifiers, not texts for readers
SOUND_FILES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")  # by name without pictures
_STATUSES = {"fetch": FetchStatus, "video": VideoStatus, "audio": AudioStatus}


def build_ledger(plan: pd.DataFrame, fetch: pd.DataFrame, probe: pd.DataFrame) -> pd.DataFrame:
    """Join the plan with the fetch and probe tables of all shards; one row per clip, by clip_id.

    Raises ValueError unless both tables have exactly one row for every planned clip.
    """
    for name, table in (("fetch", fetch), ("probe", probe)):
        if sorted(table["clip_id"]) != sorted(plan["clip_id"]):
            raise ValueError(f"{name} tables do not have exactly one row for every planned clip")
    if "left_out" not in probe:  # a table from before this column
        probe = probe.assign(left_out="")
    plan = plan.reindex(columns=list(PLAN_COLUMNS))  # one of before lacks annotated times
    ledger = plan.merge(fetch, on="clip_id", validate="1:1")
    ledger = ledger.merge(probe, on="clip_id", validate="1:1")
    ledger = ledger.sort_values("clip_id", ignore_index=True)
    ledger = ledger.assign(length=lengths(ledger))
    return ledger[list(LEDGER_COLUMNS)].astype(LEDGER_COLUMNS)


def usable(ledger: pd.DataFrame) -> pd.Series:
    """Return whether each clip can be used: its file was fetched and its pictures decode. bool.

    Of a file that is sound by its name (ESC-50), the sound must decode.
    """
    is_sound = ledger["file"].str.lower().str.endswith(SOUND_FILES)
    sound_decodes = ledger["audio"].isin([AudioStatus.OK, AudioStatus.DIGITAL_SILENCE])
    decodes = (ledger["video"] == "ok") | (is_sound & sound_decodes)
    return ((ledger["fetch"] == "ok") & decodes).astype(bool)


def coverage(ledger: pd.DataFrame, splits: pd.DataFrame, expected: dict[str, int]) -> pd.DataFrame:
    """Count the clips of every split: in the official lists, planned, fetched and usable.

    Columns: split, expected (missing if the config has none), planned, fetched, with_video
    (usable), with_sound, silent (usable without sound), then `<part>_<status>` for every status
    other than ok that occurs, and longer_than_annotated and shorter_than_annotated (usable clips)
    where one occurs. Clips that could not be fetched count under their fetch status only.
    """
    ledger = ledger.assign(usable=usable(ledger))
    present = [
        (part, status)
        for part, statuses in _STATUSES.items()
        for status in statuses
        if status not in ("ok", "not_fetched") and (ledger[part] == status).any()
    ]
    off = [flag for flag in FLAGS if (ledger["usable"] & (ledger["length"] == flag)).any()]
    table = []
    for split in sorted(set(splits["split"]) | set(expected)):
        ids = set(splits.loc[splits["split"] == split, "clip_id"])
        clips = ledger[ledger["clip_id"].isin(ids)]
        with_sound = int((clips["usable"] & (clips["audio"] == "ok")).sum())
        row = {
            "split": split,
            "expected": expected.get(split, pd.NA),
            "planned": len(clips),
            "fetched": int((clips["fetch"] == "ok").sum()),
            "with_video": int(clips["usable"].sum()),
            "with_sound": with_sound,
            "silent": int(clips["usable"].sum()) - with_sound,
        }
        row |= {f"{p}_{s}": int((clips[p] == s).sum()) for p, s in present}
        table.append(row | {f: int((clips["usable"] & (clips["length"] == f)).sum()) for f in off})
    return pd.DataFrame(table).astype({"split": "string", "expected": "Int64"})


def check_coverage(ledger: pd.DataFrame, name: str, minimum: float) -> None:
    """Raise UserError, with the counts by status in one line, if too few clips are usable."""
    good = usable(ledger)
    share = good.mean() if len(ledger) else 0.0
    if share >= minimum and len(ledger):
        return
    counts: dict[str, int] = {}
    for row in ledger[~good].itertuples():
        status = f"fetch {row.fetch}" if row.fetch != "ok" else f"video {row.video}"
        counts[status] = counts.get(status, 0) + 1
    summary = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    raise UserError(
        f"{name}: {int(good.sum())} of {len(ledger)} clips are usable ({share:.1%}; {summary}), "
        f"less than min_coverage {minimum:.1%}. Fix: see missing.tsv and `clip4vla data status "
        f"{name}`, then get the media or lower datasets.{name}.min_coverage"
    )


def check_lengths(ledger: pd.DataFrame, name: str, most: float) -> None:
    """Raise UserError if too many usable clips are longer than annotated (maybe whole videos)."""
    good = ledger[usable(ledger)]
    longer = good[good["length"] == Length.LONGER]
    if len(longer) <= most * len(good):
        return
    first = next(longer.itertuples())
    how = "".join(described(first))
    raise UserError(
        f"{name}: {len(longer)} of {len(good)} usable clips are longer than annotated, more than "
        f"max_longer {most:.1%} (first: {first.path}, {how}): whole videos under clip "
        f"names? `clip4vla data status {name}` counts them. Fix: set datasets.{name}.cut_longer: "
        f"true, which cuts local ones, or datasets.{name}.max_longer: 1 to use them as they are"
    )


def missing(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the clips that are not fully ok (MISSING_COLUMNS), by clip_id: a list to share.

    It includes usable clips without sound (`audio` is the reason), of another length than
    annotated, or with a part that is not used (described in `detail`). `retry` is when another
    attempt to fetch makes sense: now, later, never, or "" for fetched clips.
    """
    left_out = ledger["left_out"].fillna("") != ""
    flawed = ~usable(ledger) | (ledger["audio"] != "ok") | ledger["length"].isin(FLAGS) | left_out
    rows = ledger[flawed.astype(bool)]
    retry = [
        "" if status == FetchStatus.OK else FetchStatus(status).retry for status in rows["fetch"]
    ]
    rows = rows.assign(retry=retry, detail=_details(rows))
    return rows[list(MISSING_COLUMNS)].reset_index(drop=True)


def _unused(rows: pd.DataFrame) -> list[str]:
    return [f"not used: {part}" if part else "" for part in rows["left_out"].fillna("")]


def _details(flawed: pd.DataFrame) -> list[str]:
    """Return the detail of each clip: why it was not fetched, or how long it is, and its file."""
    return [
        "; ".join(part for part in (row.detail, *described(row), unused, row.path) if part)
        for row, unused in zip(flawed.itertuples(), _unused(flawed), strict=True)
    ]

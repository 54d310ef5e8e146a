"""The videos that clips are cut from, by which clips of one gallery may be nearly the same."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from clip4vla.common.parquet import read_columns
from clip4vla.config.layout import remake


def videos_of(folder: str | Path) -> dict[str, str]:
    """Return the source id of every clip of a planned dataset version. folder: of its lists."""
    path = Path(folder, "plan.parquet")
    plan = read_columns(path, remake(path), ["clip_id", "source_id"])
    return dict(zip(plan["clip_id"].to_pylist(), plan["source_id"].to_pylist(), strict=True))


def same_video(clip_ids: Iterable[str], videos: Mapping[str, str]) -> int:
    """Return the number of clips that are cut from the same video as another one of them."""
    counts = Counter(videos[clip_id] for clip_id in clip_ids)
    return sum(count for count in counts.values() if count > 1)

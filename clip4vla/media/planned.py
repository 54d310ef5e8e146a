"""The clips that are to be fetched, read from the rows of a dataset's plan."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd


class TimeRange(NamedTuple):
    """Seconds [start, end) of a longer file."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Seconds."""
        return self.end - self.start


@dataclass(frozen=True)
class PlannedClip:
    """One row of a plan.

    times: the part of the source to cut; None where the source gives the clip itself. annotated:
    the times of the dataset's lists; None where they have none.
    """

    clip_id: str
    source_id: str
    file: str
    times: TimeRange | None
    annotated: TimeRange | None


def planned_clips(plan: pd.DataFrame) -> list[PlannedClip]:
    """Return the clips of a plan, by clip_id. Plans of older versions lack annotated times."""
    clips = [
        PlannedClip(
            clip_id=row.clip_id,
            source_id=row.source_id,
            file=row.file,
            times=_times(row.start, row.end),
            annotated=_times(
                getattr(row, "annotated_start", math.nan), getattr(row, "annotated_end", math.nan)
            ),
        )
        for row in plan.itertuples()
    ]
    return sorted(clips, key=lambda clip: clip.clip_id)


def _times(start: float, end: float) -> TimeRange | None:
    return None if math.isnan(start) or math.isnan(end) else TimeRange(start, end)

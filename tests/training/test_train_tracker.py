"""The tracker of a training gets the length of the curve that no resume will cut."""

from functools import partial

import pytest
from tiny_world import build_world, finetune

from clip4vla.common.errors import RetryLater
from clip4vla.tracking.attempts import read_attempts
from clip4vla.tracking.tracker import Tracker
from clip4vla.training.train import train


class SavedLengths(Tracker):
    def __init__(self):
        self.lengths = []

    def saved(self, curve_bytes):
        self.lengths.append(curve_bytes)


def test_only_rows_within_a_checkpoint_are_reported(tmp_path):
    manifests = build_world(tmp_path / "world")
    go = partial(
        train,
        run=finetune(),
        manifests=manifests,
        initial_weights=None,
        weights={},
        substitution=None,
        state=tmp_path / "state",
        out=tmp_path / "out",
    )
    first = SavedLengths()
    with pytest.raises(RetryLater):
        go(max_seconds=0, tracker=first)
    stopped = (tmp_path / "state" / "metrics.jsonl").read_bytes()
    assert first.lengths[0] == 0 and first.lengths[-1] == len(stopped)
    second = SavedLengths()
    go(tracker=second)
    curve = (tmp_path / "state" / "metrics.jsonl").read_bytes()
    assert second.lengths[0] == len(stopped) and second.lengths[-1] == len(curve)
    assert second.lengths == sorted(second.lengths)
    assert all(curve[:length].endswith(b"\n") for length in second.lengths)
    attempts = read_attempts(tmp_path / "state")
    assert [row["end"] for row in attempts] == ["time limit", "finished"]
    assert all(row["host"] and row["peak_memory_mib"] > 0 for row in attempts)

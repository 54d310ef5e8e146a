"""Which epoch of a run is kept."""

from dataclasses import dataclass
from typing import Literal

from clip4vla.config.metrics import metric_of
from clip4vla.config.run import Finetune, Pretrain, first_scored_epoch


@dataclass(frozen=True)
class SelectionRule:
    """The rule by which a run keeps one of its epochs.

    selects: keep the best epoch, not the last. split: the name of the scored clips in the curve.
    first: the first epoch, from 1, that is scored at all. latest: of equal epochs keep the latest,
    as the released code does; otherwise the earliest, which is the shorter training.
    """

    selects: bool = False
    split: Literal["val", "test"] = "val"
    first: int = 1
    latest: bool = False

    def prefers(self, metric: str, value: float, best: float | None) -> bool:
        """Return whether an epoch with this value of the metric replaces the best so far."""
        if best is None or metric_of(metric).better(value, than=best):
            return True
        return self.latest and value == best


def selection_rule(run: Pretrain | Finetune) -> SelectionRule:
    """Return the rule of a run's `selection`. Pre-training keeps its last epoch."""
    if isinstance(run, Pretrain) or run.selection == "last":
        return SelectionRule()
    if run.selection == "best_val":
        return SelectionRule(selects=True)
    first = first_scored_epoch(run.task, run.selection)
    return SelectionRule(selects=True, split="test", first=first, latest=True)

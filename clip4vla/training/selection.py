"""Which epoch of a run is kept."""

from dataclasses import dataclass
from typing import Literal

from clip4vla.config.metrics import metric_of
from clip4vla.config.run import Finetune, Pretrain, first_scored_epoch


@dataclass(frozen=True)
class Choice:
    """The rule of a run. split: where its clips are scored, as the curve names them.

    first: the first epoch, from 1, that is scored at all. latest: of equal epochs the latest is
    kept, as in the released code; else the earliest, which is the shorter training.
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


def choice_of(run: Pretrain | Finetune) -> Choice:
    """The rule that a run's `selection` stands for; pre-training keeps its last epoch."""
    if isinstance(run, Pretrain) or run.selection == "last":
        return Choice()
    if run.selection == "best_val":
        return Choice(selects=True)
    return Choice(True, "test", first_scored_epoch(run.task, run.selection), latest=True)

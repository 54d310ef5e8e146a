"""How fast a training is, what it waits for, and how much memory it takes."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch

T = TypeVar("T")
GIB = 2**30


@dataclass
class Totals:
    """Sums over steps. `seconds` of them, of which `waiting` for the next batch of clips."""

    samples: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    @property
    def samples_per_second(self) -> float:
        """Of all ranks; 0 before the first step."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the time that the step waited for data, 0 to 1."""
        return self.waiting / self.seconds if self.seconds else 0.0

    def add(self, samples: int, seconds: float, waiting: float) -> None:
        """Count one step."""
        self.samples += samples
        self.seconds += seconds
        self.waiting += waiting


@dataclass
class Meter:
    """The clock of one process's steps: validation, saving and setting up are not on it.

    `whole`: of this attempt; `resumed`, `saved`: steps of the checkpoints that it began with and
    wrote last. Another rank's slow data show as waiting there and as slow steps here: `ranks` has
    (share of waiting, peak memory) of each, as of the last epoch.
    """

    device: torch.device = torch.device("cpu")
    whole: Totals = field(default_factory=Totals)
    recent: Totals = field(default_factory=Totals)
    resumed: int = 0
    saved: int = 0
    ranks: list[tuple[float, int]] = field(default_factory=list)

    def reading(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches; the time until one is there counts as waiting for data."""
        batches = iter(batches)
        while True:
            self._asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._got = time.perf_counter()
            yield batch

    def step(self, samples: int) -> None:
        """Count the step that was made of the last batch."""
        seconds = time.perf_counter() - self._asked
        for totals in (self.whole, self.recent):
            totals.add(samples, seconds, self._got - self._asked)

    def take(self) -> dict[str, float]:
        """Rounded numbers of the steps since the last call, for the curve."""
        recent, self.recent = self.recent, Totals()
        return {
            "speed/samples_per_second": round(recent.samples_per_second, 3),
            "speed/data_wait_share": round(recent.wait_share, 4),
            "speed/peak_memory_gib": round(self.peak_memory / GIB, 3),
        }

    @property
    def peak_memory(self) -> int:
        """Most bytes that this process has held: of the GPU where it computes on one, else RSS.

        Memory of the GPU as torch's allocator holds it, which is what other processes lack.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KB

    def report(self, totals: Totals) -> str:
        """One line for a person."""
        worst = ""
        if len(self.ranks) > 1:
            share, rank = max((share, rank) for rank, (share, _) in enumerate(self.ranks))
            worst = f" (rank {rank}: {share:.0%})"
        return (
            f"{totals.samples_per_second:.3g} samples/s, {totals.wait_share:.0%} waiting for data"
            f"{worst}, {self.peak_memory / GIB:.2f} GiB"
        )

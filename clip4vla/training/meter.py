"""Measure the speed of a training, its waiting for data, and its memory."""

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
    """Sums over steps: samples, seconds, and of these the seconds of waiting for the next batch."""

    samples: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    @property
    def samples_per_second(self) -> float:
        """Samples of all ranks a second; 0 before the first step."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the time spent waiting for data, 0 to 1."""
        return self.waiting / self.seconds if self.seconds else 0.0

    def add(self, samples: int, seconds: float, waiting: float) -> None:
        """Count one step."""
        self.samples += samples
        self.seconds += seconds
        self.waiting += waiting


@dataclass
class Meter:
    """The clock of one process's training steps, without set-up, validation and saving.

    total: sums over this attempt; recent: since the last row of the curve. resumed, saved: steps
    of the checkpoints that the attempt resumed from and wrote last. Another rank's slow data show
    as waiting there and as slow steps here, so `ranks` has (share of waiting, peak memory in bytes)
    of each rank, as of the last epoch.
    """

    device: torch.device = torch.device("cpu")
    total: Totals = field(default_factory=Totals)
    recent: Totals = field(default_factory=Totals)
    resumed: int = 0
    saved: int = 0
    ranks: list[tuple[float, int]] = field(default_factory=list)

    def reading(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches; count the time until each is ready as waiting for data."""
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
        """Count the step on the last batch."""
        seconds = time.perf_counter() - self._asked
        for totals in (self.total, self.recent):
            totals.add(samples, seconds, self._got - self._asked)

    def take(self) -> dict[str, float]:
        """Return rounded speeds of the steps since the last call, for the curve."""
        recent, self.recent = self.recent, Totals()
        return {
            "speed/samples_per_second": round(recent.samples_per_second, 3),
            "speed/data_wait_share": round(recent.wait_share, 4),
            "speed/peak_memory_gib": round(self.peak_memory / GIB, 3),
        }

    @property
    def peak_memory(self) -> int:
        """Peak memory of this process in bytes: of the GPU if it computes on one, else RSS.

        GPU memory is counted as reserved by torch's allocator, which other processes cannot use.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KB

    def report(self, totals: Totals) -> str:
        """Return speed, waiting and memory as text."""
        worst = ""
        if len(self.ranks) > 1:
            share, rank = max((share, rank) for rank, (share, _) in enumerate(self.ranks))
            worst = f" (rank {rank}: {share:.0%})"
        return (
            f"{totals.samples_per_second:.3g} samples/s, {totals.wait_share:.0%} waiting for data"
            f"{worst}, {self.peak_memory / GIB:.2f} GiB"
        )

"""Compare two sides in turn; a row is what comes of it."""

import argparse
import dataclasses
import importlib.util
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from bench.rounds import Apart, Round, measure

PEAK = {  # TFLOP/s of dense half-precision products, from the makers' data sheets
    "H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "A10": 125, "L40S": 362, "L4": 121,
    "V100": 125, "T4": 65,
}  # fmt: skip
measured_code: set[str] = set()  # files of the package that sides ran


class MissingBaseline(Exception):
    """A package that only a baseline needs is not installed."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: medians of seconds, the ratio of medians, and the range of rounds' ratios.

    baseline: a name, empty for a time without a baseline. clock: CPU or wall. per: the seconds are
    of one of so many equal parts, such as clips. skipped: the reason, if it was not measured.
    """

    name: str
    baseline: str = ""
    baseline_seconds: float | None = None
    seconds: float | None = None
    ratio: float | None = None
    lowest: float | None = None
    highest: float | None = None
    clock: str = "CPU"
    rounds: int = 0
    target: str = ""
    note: str = ""
    skipped: str = ""

    def text(self) -> str:
        """Return one line to print."""
        if self.skipped:
            return f"{self.name}: skipped, {self.skipped}"
        line = f"{self.name}: {shown(self.seconds)} {self.clock}"
        if self.ratio is not None:
            line += f", {self.baseline} {shown(self.baseline_seconds)}: ratio {self.spread()}"
        target = f"target: {self.target}" if self.target else ""
        return "; ".join(part for part in (line, target, self.note) if part)

    def spread(self) -> str:
        """Return the ratio with the range of the rounds."""
        if self.ratio is None:
            return ""
        return f"{self.ratio:.3g} ({self.lowest:.3g} to {self.highest:.3g})"


def shown(seconds: float) -> str:
    """Return a time with three digits."""
    factor, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    value = seconds * factor
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


Side = Callable[[], Any] | Apart


def compare(
    name: str,
    ours: Side,
    baseline: Side | None = None,
    *,
    options: argparse.Namespace,
    against: str = "",
    per: int = 1,
    clock: str | None = None,
    target: str = "",
    needs: Iterable[str] = (),
    note: Callable[[Round, Round | None], str] = lambda ours, baseline: "",
    memory: bool = False,
) -> Row:
    """Call both sides in turn, once to warm up and `options.rounds` times to be timed.

    against: name of the baseline; needs: its packages. note: says more of the last rounds, such as
    how far their results differ. memory: also state the peak memory of sides that are `Apart`.
    On a GPU memory is always stated, of other sides what a round took beyond what was held before.
    """
    device = getattr(options, "device", "cpu")
    clock = clock or ("CPU" if device == "cpu" else "wall")
    try:
        require(*needs)
    except MissingBaseline as error:
        return Row(name, baseline=against, skipped=str(error))
    sides = [side for side in (baseline, ours) if side is not None]
    firsts = [_round(side, device, first=True) for side in sides]
    measured_code.update(*(one.files for one in firsts))
    rounds = [[_round(side, device) for side in sides] for _ in range(options.rounds)]
    place = Round._fields.index(clock.lower())
    seconds = [[one[place] / per for one in together] for together in rounds]
    medians = [statistics.median(side) for side in zip(*seconds, strict=True)]
    last = rounds[-1]
    notes = [note(last[-1], last[0] if baseline else None)]
    notes.append(_operations(firsts, medians[-1] * per, device))
    apart = all(isinstance(side, Apart) for side in sides)
    if device == "cuda" or (memory and apart):
        notes.append(_memory(last, apart))
    row = Row(
        name,
        baseline=against,
        seconds=medians[-1],
        clock=clock,
        rounds=options.rounds,
        target=target,
        note="; ".join(filter(None, notes)),
    )
    if baseline is None:
        return row
    ratios = [slow / fast for slow, fast in seconds]
    return dataclasses.replace(
        row,
        baseline_seconds=medians[0],
        ratio=medians[0] / medians[1],
        lowest=min(ratios),
        highest=max(ratios),
    )


def _round(side: Side, device: str, first: bool = False) -> Round:
    if isinstance(side, Apart):
        return side.round(device, first)
    return measure(side, device, first)


def _memory(last: list[Round], apart: bool) -> str:
    """Return the peak memory of sides that are apart, else what a round took; ours first.

    What one side of a process keeps on a GPU is part of the other one's peak.
    """
    taken = " against ".join(f"{one.gib - (0 if apart else one.held):.2f}" for one in last[::-1])
    return f"peak {taken} GiB" if apart else f"peak {taken} GiB above what was held before"


def _operations(firsts: list[Round], seconds: float, device: str) -> str:
    """Return the operations of a round, ours first, and the rate of ours, on a GPU with its share.

    Nothing is said of sides whose operations torch does not see.
    """
    counts = [one.flops / 1e12 for one in firsts[::-1]]
    if min(counts) < 1e-3:
        return ""
    rate = counts[0] / seconds
    text = f"{' against '.join(f'{count:.3g}' for count in counts)} TFLOP, {rate:.3g} TFLOP/s"
    if device == "cpu":
        return text
    import torch

    name = torch.cuda.get_device_name()
    peak = next((peak for key, peak in PEAK.items() if key in name), None)
    return f"{text} ({'peak unknown' if peak is None else f'{rate / peak:.0%} of {peak}'})"


def require(*packages: str) -> None:
    """Raise MissingBaseline for packages that are not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingBaseline(f"{package} is not installed")

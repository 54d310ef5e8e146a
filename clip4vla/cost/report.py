"""Report of a plan and its cost."""

from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from clip4vla.common.console import console, in_bytes, table
from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.cost.assumptions import PAPER_DAYS
from clip4vla.cost.estimate import Estimate, estimate
from clip4vla.datasets.ready import missing_files
from clip4vla.models.common.forms import unfit_weights


def as_json(plan: Plan, tflops: float | None, unfit_tags: Sequence[str] = ()) -> dict[str, object]:
    """Return what `print_plan` prints: hours are of one GPU, sizes in bytes."""
    cost = estimate(plan, None if tflops is None else tflops * 1e12)
    return {
        "data": [asdict(item) for item in cost.data],
        "runs": [asdict(run) for run in cost.runs],
        "not_run": {"/".join(place): reason for place, reason in plan.without_data.items()},
        "missing": missing_files(plan),
        "unfit": [*unfit_weights(plan), *unfit_tags],
        "gpu_hours_to_do": cost.hours(done=False),
        "flops_per_second": cost.flops_per_second,
    }


def print_plan(plan: Plan, tflops: float | None, unfit_tags: Sequence[str] = ()) -> None:
    """Print data, runs with their state and first row, missing files, and the sums.

    tflops: effective speed of one GPU in 1e12 operations a second; None: that of the authors' V100.
    unfit_tags: a line for each open_clip tag that does not fit.
    """
    out = console()
    cost = estimate(plan, None if tflops is None else tflops * 1e12)
    if cost.data:
        out.print(_data(cost))
    if cost.runs:
        out.print(_runs(cost))
    for (name, row, dataset), reason in plan.without_data.items():
        out.print(f"{name}/{row}/{dataset}: not run ({reason})")
    for line in missing_files(plan):
        out.print(f"missing: {line}")
    for line in (*unfit_weights(plan), *unfit_tags):
        out.print(f"unfit: {line}")
    for line in _sums(cost, tflops):
        out.print(line)


def _data(cost: Estimate) -> Table:
    columns = ("dataset version", "clips", "shards", "state", "cache", "over the network")
    rows = table(*columns, title="Data")
    for item in cost.data:
        clips = "not declared" if item.clips is None else f"{item.clips:,}"
        fetched = "nothing"
        if item.fetched:
            fetched = f"{item.fetched:,} clips, {in_bytes(item.media_bytes)}"
            fetched += f", {item.fetch_hours:,.0f} h of pauses" if item.fetch_hours >= 1 else ""
        state = "frozen" if item.frozen else "to do"
        size = in_bytes(item.cache_bytes)
        rows.add_row(item.version, clips, str(item.shards), state, size, fetched)
    return rows


def _runs(cost: Estimate) -> Table:
    columns = ("first row that needs it", "stage", "state", "GPU hours", "run key")
    rows = table(*columns, title="Runs")
    for run in cost.runs:
        state = "done" if run.done else "to do"
        rows.add_row(run.name, run.stage, state, _hours(run.hours), run.key)
    return rows


def _sums(cost: Estimate, tflops: float | None) -> list[str]:
    todo = [run for run in cost.runs if not run.done]
    count = {stage: sum(run.stage == stage for run in todo) for stage in layout.RUN_FILES}
    ahead = ", ".join(f"{number} {stage}" for stage, number in count.items() if number)
    lines = [f"{len(cost.runs)} runs, " + (f"{len(todo)} to do: {ahead}" if todo else "all done")]
    if not cost.runs:
        lines = ["no runs"]
    to_cache = sum(item.cache_bytes for item in cost.data if not item.frozen)
    if to_cache:
        media = sum(item.media_bytes for item in cost.data)
        more = f", and {in_bytes(media)} of downloaded media" if media else ""
        lines.append(f"Disk to come: {in_bytes(to_cache)} of frames and log-mel{more}")
    if any(run.hours for run in todo):
        speed = cost.flops_per_second / 1e12
        whose = "of a V100 in the authors' log" if tflops is None else "as you say"
        pretraining = cost.hours(done=False, stage="pretrain")
        of_it = f" ({_days(pretraining)} of it pre-training; the paper's: {PAPER_DAYS:g} V100-days)"
        total = f"GPU time to come: {_days(cost.hours(done=False))}"
        # The paper's days do not help with a tiny model.
        lines.append(total + (of_it if pretraining >= 1 else ""))
        lines.append(
            f"An estimate from the operations of model and data, at {speed:.1f} effective TFLOP/s "
            f"{whose}; --tflops takes that of your GPU"
        )
    unknown = [run for run in todo if run.hours is None]
    if unknown:
        lines.append(
            f"{len(unknown)} runs have no estimate: declare `datasets.NAME.expected` for their "
            "splits"
        )
    return lines


def _hours(hours: float | None) -> str:
    if hours is None:
        return "?"
    return "< 0.1" if hours < 0.1 else f"{hours:,.1f}"


def _days(hours: float) -> str:
    return f"{hours / 24:,.1f} GPU-days" if hours >= 24 else f"{_hours(hours)} GPU hours"

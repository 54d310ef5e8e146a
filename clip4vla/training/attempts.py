"""The attempts of a run: the steps of each one, the cost of all, and when to give up.

runs/<run_key>/attempt.json    the current attempt, rewritten every 30 seconds
runs/<run_key>/attempts.jsonl  a line for each attempt that has ended

A killed attempt cannot write its line. The next attempt writes it from attempt.json, so the cost
of a killed one is known to half a minute.
"""

import contextlib
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import write_json
from clip4vla.common.provenance import provenance, usage
from clip4vla.tracking.attempts import append_attempt, attempt_without_end, read_attempts
from clip4vla.training.checkpoint import TrainState, newest_step
from clip4vla.training.meter import GIB, Meter
from clip4vla.training.ranks import Ranks
from clip4vla.training.stop import Stop

HEARTBEAT_SECONDS = 30.0
MAX_STALLED = 3  # attempts in a row without a saved step, before the next one is refused
SHORT_SECONDS = 60.0  # an attempt that was stopped or killed earlier does not count as stalled
FAILED = ("error", "not finite")
GIVEN_UP = "given up"
REMEDIES = {
    "killed": "if it ran out of memory, ask for more, or lower optimiser.microbatch",
    "not finite": "the loss is not finite; run `clip4vla not-finite` on the newest report",
    "error": "see the traceback at the end of the log",
    "time limit": "set-up and one step take longer than the time limit; ask for more time",
}


class NotFinite(UserError):
    """The loss or a gradient is NaN or infinite; a retry from the same checkpoint would be, too."""


@contextlib.contextmanager
def recorded(
    folder: Path, stop: Stop, ranks: Ranks, device: torch.device
) -> Iterator[tuple[TrainState, Meter]]:
    """Record an attempt, which keeps the yielded state and meter up to date.

    Raises UserError, once, when the last three attempts saved no step; the same command then tries
    again. Attempts that a signal or a kill ended within a minute do not count.
    """
    progress, meter, began = TrainState(), Meter(device), time.time()
    facts = {
        "id": f"{platform.node()}-{os.getpid()}-{int(began * 1000)}",
        "started_ms": int(began * 1000),
        "ranks": ranks.world,
        "gpus": ranks.world if device.type == "cuda" else 0,
        "device": _device_name(device),
        **provenance(),
    }

    def row(end: str) -> dict:
        return facts | {
            "end": end,
            "seconds": round(time.time() - began, 1),
            "resumed": meter.resumed,
            "step": progress.step,
            "saved": meter.saved,
            "samples": meter.total.samples,
            "training_seconds": round(meter.total.seconds, 3),
            "waiting_seconds": round(meter.total.waiting, 3),
            "peak_memory_bytes": max([meter.peak_memory, *(peak for _, peak in meter.ranks)]),
            **usage(),
        }

    _refuse_if_stalled(folder, ranks, row)
    end = "error"
    with _heartbeat(folder, row) if ranks.leads else contextlib.nullcontext():
        try:
            yield progress, meter
            end = "finished"
        except RetryLater:
            end = stop.reason or "stopped"
            raise
        except NotFinite:
            end = "not finite"
            raise
        except UserError:
            end = "refused"
            raise
        finally:
            if ranks.leads:
                append_attempt(folder, row(end))


def attempts_of(folder: Path) -> list[dict]:
    """Return the attempts in their order. One that has not written its line counts as killed."""
    rows, unfinished = read_attempts(folder), attempt_without_end(folder)
    if unfinished and unfinished.get("id") not in [row.get("id") for row in rows]:
        rows.append(unfinished | {"end": "killed"})
    return rows


def cost_of(folder: Path) -> dict:
    """Return the cost of all attempts of a run, killed ones up to their last heartbeat.

    hours: wall time; gpu_hours: times GPUs; hardware: hours times processes, by device. Speed and
    waiting are over all steps, including those lost by a kill.
    """
    rows = [row for row in attempts_of(folder) if row["end"] != GIVEN_UP]

    def total(name: str) -> float:
        return sum(row.get(name, 0) for row in rows)

    hardware: dict[str, float] = {}
    for row in rows:
        name = row.get("device", "unknown")
        hours = row["seconds"] * row["ranks"] / 3600
        hardware[name] = round(hardware.get(name, 0.0) + hours, 4)
    training = total("training_seconds")
    return {
        "attempts": len(rows),
        "killed": sum(row["end"] == "killed" for row in rows),
        "hours": round(total("seconds") / 3600, 4),
        "gpu_hours": round(sum(r["seconds"] * r.get("gpus", 0) for r in rows) / 3600, 4),
        "hardware": hardware,
        "samples": total("samples"),
        "samples_per_second": round(total("samples") / training, 3) if training else 0.0,
        "data_wait_share": round(total("waiting_seconds") / training, 4) if training else 0.0,
        "peak_memory_gib": round(max([r.get("peak_memory_bytes", 0) for r in rows] + [0]) / GIB, 3),
    }


def _refuse_if_stalled(folder: Path, ranks: Ranks, row: Callable[[str], dict]) -> None:
    """Raise UserError, on every rank, if the last attempts made no progress."""
    problem = None
    if ranks.leads:
        rows = attempts_of(folder)
        if (folder / "attempt.json").exists():  # of a dead process: this one holds the folder
            if rows and rows[-1]["end"] == "killed":
                append_attempt(folder, rows[-1])
            (folder / "attempt.json").unlink()
        problem = _stall_message(folder, rows)
        if problem:
            append_attempt(folder, row(GIVEN_UP))
    problem = ranks.from_leader(problem)
    if problem:
        raise UserError(problem)


def _stall_message(folder: Path, rows: list[dict]) -> str | None:
    """Return the message of an error if the last attempts made no progress, otherwise None."""
    last = [row for row in rows if "saved" in row and row["end"] != "refused"][-MAX_STALLED:]
    if len(last) < MAX_STALLED or not all(map(_saved_nothing, last)):
        return None
    if newest_step(folder / "state") > last[0]["resumed"]:
        return None  # saved after the last heartbeat
    end = last[-1]["end"]
    remedy = REMEDIES.get(end, f"{end} came before the first checkpoint; give it more time")
    return (
        f"{folder / 'attempts.jsonl'}: {MAX_STALLED} attempts in a row saved no step after "
        f"{last[-1]['resumed']} ({', '.join(row['end'] for row in last)}). Fix: {remedy}; then run "
        "the same command again"
    )


def _saved_nothing(row: dict) -> bool:
    """Return whether an attempt saved no step and counts: it failed, or was not a short one."""
    counts = row["end"] in FAILED or row["seconds"] >= SHORT_SECONDS
    return counts and row["saved"] <= row["resumed"] and row["end"] not in (GIVEN_UP, "finished")


@contextlib.contextmanager
def _heartbeat(folder: Path, row: Callable[[str], dict]) -> Iterator[None]:
    """Keep attempt.json up to date, in a thread, because set-up and validation can take hours."""
    path, ended = folder / "attempt.json", threading.Event()
    write_json(path, row("under way"))

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # checkpoints report a full disk
                write_json(path, row("under way"))

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()

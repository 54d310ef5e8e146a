"""The attempts of a run: how far each one came, what all of them cost, and when to give up.

runs/<run_key>/attempt.json    the attempt under way, rewritten twice a minute whatever it does
runs/<run_key>/attempts.jsonl  a line for each that has ended

A killed attempt cannot write its line: the next one makes it of what attempt.json says, so the
cost of a kill is known to half a minute.
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
FRUITLESS = 3  # attempts in a row without a saved step, before the next one is refused
SHORT_SECONDS = 60.0  # an attempt that somebody ended so soon says nothing
FAILED, GIVEN_UP = ("error", "not finite"), "given up"
REMEDIES = {
    "killed": "killed from outside: out of memory? ask for more, or lower optimiser.microbatch",
    "not finite": "its loss is not finite: `clip4vla not-finite` on the newest dump shows where",
    "error": "it failed by itself: the end of its log says why",
    "time limit": "setting up and one step take longer than the time that it gets: ask for more",
}


class NotFinite(UserError):
    """The loss or a gradient is NaN or infinite: it will be so again from the same checkpoint."""


@contextlib.contextmanager
def recorded(
    folder: Path, stop: Stop, ranks: Ranks, device: torch.device
) -> Iterator[tuple[TrainState, Meter]]:
    """Record an attempt, which moves the state and the meter along.

    Raises UserError, once, when the last three attempts saved no step; the same command then tries
    again. Attempts that a signal or a kill ended within a minute do not count among them.
    """
    progress, meter, began = TrainState(), Meter(device), time.time()
    about = {
        "id": f"{platform.node()}-{os.getpid()}-{int(began * 1000)}",
        "started_ms": int(began * 1000),
        "ranks": ranks.world,
        "gpus": ranks.world if device.type == "cuda" else 0,
        "device": _name_of(device),
        **provenance(),
    }

    def row(end: str) -> dict:
        return about | {
            "end": end,
            "seconds": round(time.time() - began, 1),
            "resumed": meter.resumed,
            "step": progress.step,
            "saved": meter.saved,
            "samples": meter.whole.samples,
            "training_seconds": round(meter.whole.seconds, 3),
            "waiting_seconds": round(meter.whole.waiting, 3),
            "peak_memory_bytes": max([meter.peak_memory, *(peak for _, peak in meter.ranks)]),
            **usage(),
        }

    _refuse_the_hopeless(folder, ranks, row)
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
    rows, left = read_attempts(folder), attempt_without_end(folder)
    if left and left.get("id") not in [row.get("id") for row in rows]:
        rows.append(left | {"end": "killed"})
    return rows


def cost_of(folder: Path) -> dict:
    """What all attempts of a run took, killed ones too, as far as their last sign of life.

    hours: of the clock; gpu_hours: times GPUs; hardware: hours times processes by device. Speed and
    waiting are over all steps, those that a kill cost among them.
    """
    rows = [row for row in attempts_of(folder) if row["end"] != GIVEN_UP]
    total = lambda name: sum(row.get(name, 0) for row in rows)  # noqa: E731
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


def _refuse_the_hopeless(folder: Path, ranks: Ranks, row: Callable[[str], dict]) -> None:
    why = None
    if ranks.leads:
        rows = attempts_of(folder)
        if (folder / "attempt.json").exists():  # whoever wrote it is dead: we hold the folder
            if rows and rows[-1]["end"] == "killed":
                append_attempt(folder, rows[-1])
            (folder / "attempt.json").unlink()
        why = _hopeless(folder, rows)
        if why:
            append_attempt(folder, row(GIVEN_UP))
    why = ranks.from_leader(why)
    if why:
        raise UserError(why)


def _hopeless(folder: Path, rows: list[dict]) -> str | None:
    """Why there should be no further attempt; None where there should."""
    last = [row for row in rows if "saved" in row and row["end"] != "refused"][-FRUITLESS:]
    if len(last) < FRUITLESS or not all(map(_fruitless, last)):
        return None
    if newest_step(folder / "state") > last[0]["resumed"]:
        return None  # saved after the last sign of life
    end = last[-1]["end"]
    remedy = REMEDIES.get(end, f"{end} came before it could save: give it more time")
    return (
        f"{FRUITLESS} attempts in a row saved no step after {last[-1]['resumed']} "
        f"({', '.join(row['end'] for row in last)}; see {folder / 'attempts.jsonl'}): {remedy}. "
        "Mend it; the same command then tries again"
    )


def _fruitless(row: dict) -> bool:
    counts = row["end"] in FAILED or row["seconds"] >= SHORT_SECONDS
    return counts and row["saved"] <= row["resumed"] and row["end"] not in (GIVEN_UP, "finished")


@contextlib.contextmanager
def _heartbeat(folder: Path, row: Callable[[str], dict]) -> Iterator[None]:
    """Keep attempt.json up to date, in a thread: setting up and validating can take hours."""
    path, over = folder / "attempt.json", threading.Event()
    write_json(path, row("under way"))

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # a full disk is reported by who needs it
                write_json(path, row("under way"))

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()

"""Samples of the machine and of a run's progress, for the curves of a live run."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from clip4vla.tracking.curve import last_row
from clip4vla.tracking.server import quiet_mlflow

KEPT = 2000  # samples kept while the server is away; the oldest are dropped


class Sampler:
    """A sampler of the machine, every `seconds`; `waiting` holds samples that are not sent yet.

    The numbers of the machine are MLflow's own (psutil; NVML where there is a GPU). pid: the
    stage's process, whose memory and that of its children is a separate number, since nodes are
    shared.
    """

    def __init__(self, seconds: float, curve: Path | None, pid: int):
        self.seconds, self.curve, self.pid = seconds, curve, pid
        self.due = 0.0
        self.waiting: deque[tuple[int, dict[str, float]]] = deque(maxlen=KEPT)
        self.monitors = list(_monitors())

    def sample(self) -> None:
        """Take a sample if one is due."""
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + self.seconds
        values = {f"system/{name}": value for name, value in self._machine().items()}
        values |= {f"progress/{name}": value for name, value in self._progress().items()}
        self.waiting.append((int(time.time() * 1000), values))

    def _machine(self) -> dict[str, float]:
        import psutil

        values: dict[str, float] = {}
        for monitor in self.monitors:
            with contextlib.suppress(Exception):  # an error of a driver loses only this sample
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        with contextlib.suppress(psutil.Error):  # the stage may have ended
            stage = psutil.Process(self.pid)
            family = [stage, *stage.children(recursive=True)]
            own = os.getpid()
            used = sum(one.memory_info().rss for one in family if one.pid != own)
            values["run_memory_megabytes"] = used / 1e6
        return values

    def _progress(self) -> dict[str, float]:
        """Return the run's step and loss, also of rows that are not in a checkpoint yet."""
        row = last_row(self.curve) if self.curve else None
        if row is None:
            return {}
        loss = {"loss": row.values["train/loss"]} if "train/loss" in row.values else {}
        return {"step": float(row.step), **loss}


def _monitors() -> Iterator:
    quiet_mlflow(retries=0)
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    for monitor in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
        with contextlib.suppress(Exception):  # no GPU, no NVML, a container without counters
            yield monitor()

"""Run a training in several processes on this machine, one for each GPU.

torchrun could start the same command. It is not used because it hides the exit codes of the ranks,
by which a training asks to be resumed later.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType

from clip4vla.common.errors import EXIT_RETRY, EXIT_USER_ERROR, RetryLater, UserError

COMMAND = [sys.executable, "-m", "clip4vla"]
GRACE_SECONDS = 60.0  # for the other ranks, when one has failed


def run_here(arguments: list[str], processes: int) -> None:
    """Run `clip4vla ARGUMENTS` as `processes` ranks, which get SIGTERM, SIGINT and SIGUSR2 too.

    Raises RetryLater when the training saved itself and stopped, UserError when it refused to run,
    RuntimeError when it failed.
    """
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    ranks: list[subprocess.Popen[bytes]] = []
    received: list[int] = []  # signals so far: ranks that start later get them too

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        _send(ranks, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, pass_on)
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(subprocess.Popen([*COMMAND, *arguments], env=common | own))
    for earlier in received:
        _send(ranks, earlier)
    codes = _wait(ranks)
    if EXIT_USER_ERROR in codes:
        raise UserError("the training refused to run. Fix: see the error above")
    if EXIT_RETRY in codes:
        raise RetryLater("the training saved itself and stopped. Fix: run the same command again")
    if any(codes):
        raise RuntimeError(f"the ranks of the training ended with {codes}. Fix: see errors above")


def _wait(ranks: list[subprocess.Popen[bytes]]) -> list[int]:
    """Return the exit codes of all ranks. When one fails, end the others, which wait for it."""
    deadline = None
    while any(rank.poll() is None for rank in ranks):
        if deadline is None and any(rank.poll() for rank in ranks):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            _send(ranks, signal.SIGKILL)
        time.sleep(0.2)
    return [rank.returncode for rank in ranks]


def _send(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

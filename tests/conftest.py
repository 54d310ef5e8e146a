"""What holds for all tests: one CPU thread a process, no GPU unless asked, long files first."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

# Tests run side by side, and equal bits need an equal thread count.
os.environ["OMP_NUM_THREADS"] = "1"
# They ask for the bits of a CPU, also where there is a GPU; `make test-gpu` sets this and runs the others.
REQUIRED = "CLIP4VLA_REQUIRE_GPU"
if not os.environ.get(REQUIRED):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A shell starts what is to run in its background without Ctrl-C; tests of interrupts need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = ("workflow", "slurm", "tracking", "training")  # folders with the files that take longest


def pytest_collection_modifyitems(items):
    """Long files first: workers that take whole files then end at about the same time."""
    here = Path(__file__).parent

    def place(item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=place)


def pytest_xdist_auto_num_workers(config) -> int:
    """One worker more than cores: many tests wait, for Slurm, servers and processes they killed."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def running_meteor():
    """METEOR takes ten seconds of CPU to start: one process scores for all tests that only need it."""
    from clip4vla.metrics.captions import meteor

    with meteor() as score:
        yield score


@pytest.fixture
def kept_meteor(running_meteor, monkeypatch):
    """Let every caption scorer of a test ask the METEOR that is running."""
    from clip4vla.metrics import captions

    monkeypatch.setattr(captions, "meteor", lambda: contextlib.nullcontext(running_meteor))


@pytest.fixture
def half_precision(monkeypatch):
    """Compute in bfloat16 on the CPU, as on a GPU: autocast refuses the same types there."""
    import torch

    from clip4vla.common import device

    monkeypatch.setattr(device, "half_type", lambda device: torch.bfloat16)


@pytest.fixture(scope="session")
def gpu():
    """The GPU, in float32 where a test computes without autocast: TF32 has 10 bits."""
    import torch

    if not os.environ.get(REQUIRED):
        pytest.skip("needs a GPU: make test-gpu")
    assert torch.cuda.is_available(), f"{REQUIRED} is set, and torch sees no GPU"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", 0)

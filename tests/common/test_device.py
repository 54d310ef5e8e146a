"""Half precision by the capability of a GPU; the tests need no GPU."""

from types import SimpleNamespace

import pytest
import torch

from clip4vla.common.device import autocast, half_type, pick_device, set_threads, take
from clip4vla.common.errors import UserError
from clip4vla.common.hardware import Hardware, ReadingHardware
from clip4vla.config.sections import Optimiser
from clip4vla.training.loop import Trainer
from clip4vla.training.optimiser import Updates

GPU = torch.device("cuda")


@pytest.fixture
def capability(monkeypatch):
    """A machine whose GPU has this compute capability."""

    def pretend(major, minor):
        properties = SimpleNamespace(major=major, minor=minor)
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda device=None: properties)
        monkeypatch.setattr("torch.version.hip", None)
        monkeypatch.setattr("torch.version.cuda", "12.6")

    return pretend


@pytest.mark.parametrize(
    "major, minor, half",
    [
        (7, 0, torch.float16),  # V100
        (7, 5, torch.float16),  # T4
        (8, 0, torch.bfloat16),  # A100
        (9, 0, torch.bfloat16),  # H100
    ],
)
def test_half_precision_is_what_the_gpu_has(capability, major, minor, half):
    capability(major, minor)
    assert half_type(GPU) is half
    assert autocast(GPU).fast_dtype is half


def test_a_cpu_computes_in_float32():
    assert half_type(torch.device("cpu")) is None


@pytest.mark.parametrize("major, scaled", [(7, True), (8, False)])
def test_only_float16_gets_a_loss_scale(capability, monkeypatch, major, scaled, tmp_path):
    """The trainer's own choice, up to where it would touch the GPU."""
    capability(major, 0)
    model = torch.nn.Linear(2, 1)
    made = []

    def updates(*arguments, **options):
        made.append(Updates(*arguments, **options))
        return made[0]

    class Enough(Exception):
        pass

    def stop(self):
        raise Enough

    monkeypatch.setattr("clip4vla.training.loop.Updates", updates)
    monkeypatch.setattr(Trainer, "_resume", stop)
    config = Optimiser(lr=1e-3, epochs=1, batch_size=2)
    task, batches = SimpleNamespace(model=model, heads=()), SimpleNamespace(steps=1)
    trainer = Trainer(task, batches, config, None, tmp_path, GPU)
    with pytest.raises(Enough):
        trainer.run(stop=None)
    assert made[0].scaler.is_enabled() is scaled


@pytest.mark.parametrize(
    "threads, bound_to, job, warning",
    [
        (8, 1, "7", "bound to 1 of 16 CPUs. Fix: pass --cpus-per-task=8 to srun itself"),
        (8, 1, None, "bound to 1 of 16 CPUs. Fix: lower --threads, or give the process more"),
        (8, 8, "7", ""),
        (99, 16, None, ""),  # more than the machine has, all of which it may use
    ],
)
def test_a_process_bound_to_fewer_cpus_than_threads_warns(
    monkeypatch, capsys, threads, bound_to, job, warning
):
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(bound_to)))
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    set_threads(threads)
    err = capsys.readouterr().err
    assert warning in err and bool(err) == bool(warning)


@pytest.mark.parametrize(
    "hardware, on_cpu, on_gpu",
    [
        (ReadingHardware(threads=1), 0, 0),
        (ReadingHardware(threads=2), 0, 1),
        (ReadingHardware(threads=4), 1, 3),
        (ReadingHardware(threads=8), 2, 6),
        (ReadingHardware(threads=8, readers=5), 5, 5),
        (ReadingHardware(threads=8, readers=0), 0, 0),
        (Hardware(threads=8), 0, 0),
    ],
)
def test_some_cores_read_and_the_others_compute(monkeypatch, hardware, on_cpu, on_gpu):
    computing = []
    monkeypatch.setattr("torch.set_num_threads", computing.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for device, readers in (("cpu", on_cpu), ("cuda", on_gpu)):
        monkeypatch.setattr(
            "clip4vla.common.device.pick_device", lambda _, d=device: torch.device(d)
        )
        assert take(hardware) == (torch.device(device), readers)
        assert computing.pop() + readers == hardware.threads


def test_a_core_is_left_to_compute():
    with pytest.raises(
        UserError, match=r"--readers 2: leaves none of 2 cores .* Fix: pass at most 1"
    ):
        ReadingHardware(threads=2, readers=2)


@pytest.mark.parametrize("name", ["meta", "nonsense", "cpu:x", "hpu", ""])
def test_a_device_of_no_known_kind_is_refused_at_once(name):
    for kind in (Hardware, ReadingHardware):
        with pytest.raises(UserError, match=f"device {name}: torch .* Fix: give cpu, or leave it"):
            kind(device=name)
    assert ReadingHardware(device="cuda:7").device == "cuda:7"


@pytest.mark.parametrize("name", ["cuda:99", "meta", "nonsense", "xla", "vulkan", "hpu"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(
        UserError, match=rf"device {name}: .*\. Fix: give cpu, or leave it out"
    ) as e:
        pick_device(name)
    assert len(str(e.value)) < 250 and "aten::" not in str(e.value)


def test_a_named_device_is_taken(monkeypatch):
    monkeypatch.setattr("clip4vla.common.device.claim_one_or_share", lambda: pytest.fail("claims"))
    assert pick_device("cpu") == torch.device("cpu")

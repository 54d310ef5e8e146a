"""Free GPUs, with a stand-in for nvidia-smi."""

import os
import subprocess
import sys

import pytest

from clip4vla.common import gpus as devices
from clip4vla.common.errors import UserError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with these GPUs, of which some are busy; nothing is locked yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(devices, "_held", [])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in (devices.VISIBLE, "LOCAL_RANK", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)

    def define(gpus, busy=()):
        text = '#!/bin/sh\ncase $1 in *compute*) set -- BUSY;; *) set -- GPUS;; esac\nprintf "%s\\n" "$@"\n'
        text = text.replace("BUSY", " ".join(busy) or "''").replace("GPUS", " ".join(gpus))
        (tmp_path / "nvidia-smi").write_text(text)
        (tmp_path / "nvidia-smi").chmod(0o755)

    yield define
    for lock in devices._held:
        os.close(lock)
    os.environ.pop(devices.VISIBLE, None)


def other_process(tmp_path):
    """Let another training of this machine claim one GPU; its output is the GPU."""
    script = (
        f"import os, tempfile\ntempfile.tempdir = {str(tmp_path)!r}\n"
        "from clip4vla.common import gpus as devices\ndevices.claim(1)\nprint(os.environ[devices.VISIBLE])"
    )
    variables = {name: value for name, value in os.environ.items() if name != devices.VISIBLE}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, env=variables)


def test_busy_gpus_are_left_alone(machine):
    machine(["GPU-a", "GPU-b", "GPU-c"], busy=["GPU-a"])
    devices.claim(2)
    assert os.environ[devices.VISIBLE] == "GPU-b,GPU-c"


def test_two_trainings_take_different_gpus_before_either_computes(machine, tmp_path):
    machine(["GPU-a", "GPU-b"])
    devices.claim(1)
    assert os.environ[devices.VISIBLE] == "GPU-a"
    assert other_process(tmp_path).stdout.strip() == "GPU-b"
    assert other_process(tmp_path).stdout.strip() == "GPU-b"  # a lock ends with its process


def test_too_few_free_gpus_are_an_error_and_none_is_reserved(machine, tmp_path):
    machine(["GPU-a", "GPU-b"], busy=["GPU-b"])
    with pytest.raises(UserError, match="2 GPU.* requested, 1 of 2 free here"):
        devices.claim(2)
    assert devices.VISIBLE not in os.environ
    assert other_process(tmp_path).stdout.strip() == "GPU-a"


def test_more_gpus_than_the_machine_has_are_an_error(machine):
    machine(["GPU-a"])
    with pytest.raises(
        UserError, match="4 GPU.* requested, but this machine has 1. Fix: .*gpus_per"
    ):
        devices.claim(4)


def test_cuda_visible_devices_is_respected(machine, monkeypatch):
    machine(["GPU-a", "GPU-b"], busy=["GPU-b"])
    monkeypatch.setenv(devices.VISIBLE, "1,0")
    devices.claim(1)
    assert os.environ[devices.VISIBLE] == "1"
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=1 shows 1"):
        devices.claim(2)


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_JOB_ID"])
def test_ranks_and_jobs_do_not_choose(machine, monkeypatch, variable):
    machine(["GPU-a"])
    monkeypatch.setenv(variable, "0")
    devices.claim_one_or_share()
    assert devices.VISIBLE not in os.environ


def test_a_single_process_shares_a_busy_gpu_with_a_warning(machine, capsys):
    machine(["GPU-a"], busy=["GPU-a"])
    devices.claim_one_or_share()
    assert devices.VISIBLE not in os.environ
    assert "sharing a GPU" in capsys.readouterr().err

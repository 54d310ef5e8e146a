"""Counts that are kept for later plans: never of other code, never from a damaged file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clip4vla.common import files
from clip4vla.config.families import FAMILIES
from clip4vla.cost import kept
from clip4vla.cost.kept import KeptCounts

REPO = Path(__file__).parents[2]
PLAN = (
    "import sys; from clip4vla.cli.main import main\n"
    "try: main(['plan', 'table5/scratch', *sys.argv[1:]])\n"
    "except SystemExit as end: assert not end.code, end.code\n"
    "print('torch' in sys.modules, file=sys.stderr)"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clip4vla"


def keep(**counts):
    """Add counts as a plan does."""
    now = KeptCounts()
    now.known.update(counts)
    now.write()


def known():
    return KeptCounts().known


def the_file(cache):
    (path,) = cache.iterdir()
    return path


def planned(folder, *arguments):
    command = [sys.executable, "-c", PLAN, "-c", str(REPO / "config.yaml"), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def answer(process):
    """What a plan printed, and whether it loaded torch."""
    out, err = process.communicate()
    return out, {"True": True, "False": False}[err.splitlines()[-1]]


def test_a_second_plan_says_the_same_without_torch(tmp_path, cache):
    """After two first ones at the same time."""
    first = [answer(process) for process in [planned(tmp_path, "--json") for _ in range(2)]]
    again = answer(planned(tmp_path, "--json"))
    assert first == [(again[0], True)] * 2 and again[1] is False
    assert json.loads(again[0])["gpu_hours_to_do"] > 0
    printed, loads_torch = answer(planned(tmp_path))
    assert not loads_torch and "GPU time to come" in printed
    the_file(cache)


def test_numbers_keep_all_digits():
    counts = {"whole": 2**70 + 1, "part": 0.1 + 0.2, "parts": [1e300, 7], "scoring": {"clip": 1.5}}
    keep(**counts)
    assert known() == counts


def test_two_plans_at_once_keep_the_counts_of_both():
    one, other = KeptCounts(), KeptCounts()
    one.known["a"], other.known["b"] = 1, 2
    one.write()
    other.write()
    assert known() == {"a": 1, "b": 2}


def test_other_libraries_count_anew(monkeypatch, cache):
    keep(a=1)
    monkeypatch.setattr(kept, "version", lambda name: {"torch": "2.6.0"}.get(name, "1"))
    assert known() == {}
    keep(b=2)
    assert known() == {"b": 2}
    the_file(cache)  # takes the place of the old one


@pytest.mark.parametrize("change", ["edited", "renamed", "added", "removed"])
def test_other_code_counts_anew(change, tmp_path, monkeypatch):
    """Of the package, and of a family elsewhere, which is simpler to edit."""
    family = tmp_path / "kept_family"
    family.mkdir()
    (family / "__init__.py").touch()
    (family / "layer.py").write_text("WIDTH = 1")
    (family / "sizes.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(FAMILIES, "kept", "kept_family")
    keep(a=1)
    assert known() == {"a": 1}
    match change:
        case "edited":
            (family / "layer.py").write_text("WIDTH = 2")
        case "renamed":
            (family / "layer.py").rename(family / "other.py")
        case "added":
            (family / "more.py").touch()
        case "removed":
            (family / "sizes.json").unlink()
    assert known() == {}


def test_bytecode_is_no_code(tmp_path, monkeypatch):
    (tmp_path / "kept_family" / "__pycache__").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(FAMILIES, "kept", "kept_family")
    keep(a=1)
    for name in ("layer.cpython-311.pyc", "layer.cpython-311.pyc.140245"):  # while it is written
        (tmp_path / "kept_family" / "__pycache__" / name).write_bytes(b"x")
    assert known() == {"a": 1}


def test_every_file_of_the_package_counts(monkeypatch, cache):
    """Also those that are no Python, such as the sizes of an architecture."""
    read, seen = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(path) or read(path))
    known()
    package = REPO / "clip4vla"
    assert {package / "cost" / "counting.py", package / "models/coavt/model.py"} <= set(seen)
    assert package / "models" / "clip4vla" / "architectures" / "tiny.json" in seen


DAMAGES = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "another number": lambda text: text.replace('"a":1', '"a":2'),
    "another count": lambda text: text.replace('"a":1', '"a":1,"b":2'),
    "no counts": lambda text: json.dumps({"sha256": json.loads(text)["sha256"]}),
    "no checksum": lambda text: json.dumps({"counts": {"a": 1}}),
    "a list": lambda text: "[1, 2]",
    "null": lambda text: "null",
    "nan": lambda text: text.replace('"a":1', '"a":NaN'),
    "deep": lambda text: "[" * 100_000,
    "binary": lambda text: b"\x80\x02\xff",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_ignored_and_replaced(damage, cache):
    keep(a=1)
    path = the_file(cache)
    found = DAMAGES[damage](path.read_text())
    path.write_bytes(found if isinstance(found, bytes) else found.encode())
    assert known() == {}
    keep(b=2)
    assert known() == {"b": 2}


def test_a_folder_in_the_place_of_the_file_is_ignored(cache):
    keep(a=1)
    path = the_file(cache)
    path.unlink()
    path.mkdir()
    keep(b=2)
    assert known() == {}
    the_file(cache)  # and no temporary file


def test_a_place_that_cannot_be_written_only_keeps_nothing(tmp_path, monkeypatch, cache):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep(a=1)
    assert known() == {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    keep(a=1)
    assert known() == {} and not [*cache.rglob("*.*")]


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    keep(a=1)
    assert known() == {}


def test_nothing_is_written_without_a_new_count(cache):
    keep(a=1)
    before = the_file(cache).stat().st_ino
    keep(a=1)
    assert the_file(cache).stat().st_ino == before

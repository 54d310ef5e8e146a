"""Sides are timed in turn, rows say what came of it, and the runner survives what benchmarks do."""

import argparse
import importlib.util
import os
import shlex
import time
from functools import partial
from pathlib import Path

import bench
import numpy as np
import pytest
import suite
import torch
from bench import rounds, rows
from bench.script import code_sha256
from bench.table import OLDER, is_current, markdown
from torch.nn.functional import scaled_dot_product_attention

from clip4vla.common.files import canonical_json, read_json, write_json
from clip4vla.common.onednn import packed

BENCHMARKS = Path(bench.__file__).parents[1]
OPTIONS = argparse.Namespace(rounds=3)
TOY = """
import bench
import toy_baseline
from clip4vla.common.files import canonical_json
def rows(options):
    yield bench.compare("a json", lambda: canonical_json([1]), lambda: canonical_json([1] * 99),
        against="long | one", options=options, note=lambda a, b: f"{len(b.result)} letters")
    yield bench.compare("a dream", None, None, against="x", needs=["no_such_package"], options=options)
bench.main(bench.parser("Toy.", rounds=2), rows)
"""
SCRIPTS = {
    "toy": TOY,
    "toy_baseline": "",
    "fails": "raise SystemExit('it broke')",
    "hangs": "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
    "open(__file__[:-8] + 'started', 'w').write(str(child.pid))\nchild.wait()",
    "needs": "import bench\nbench.main(bench.parser('Needs.', rounds=1), "
    "lambda options: bench.require('no_such_package') or [])",
}


@pytest.fixture
def clock(monkeypatch):
    """A clock of the CPU that only sides put forward."""
    now = [0.0]
    monkeypatch.setattr(rounds, "cpu_seconds", lambda: now[0])
    return now


def side(clock, seconds, calls, name):
    """A side that takes given times, the first one to warm up."""
    left = iter(seconds)

    def call():
        calls.append(name)
        clock[0] += next(left)
        return name

    return call


def test_a_row_has_medians_of_both_sides_in_turn_and_the_range_of_their_ratios(clock):
    calls = []
    ours = side(clock, [50, 2, 4, 6], calls, "ours")
    baseline = side(clock, [99, 10, 8, 30], calls, "baseline")
    row = bench.compare(
        "a thing",
        ours,
        baseline,
        against="the usual",
        options=OPTIONS,
        per=2,
        note=lambda ours, baseline: f"{ours.result}, not {baseline.result}",
    )
    assert calls == ["baseline", "ours"] * 4
    assert (row.seconds, row.baseline_seconds, row.ratio) == (2.0, 5.0, 2.5)
    assert (row.lowest, row.highest, row.clock, row.rounds) == (2.0, 5.0, "CPU", 3)
    assert row.text() == "a thing: 2 s CPU, the usual 5 s: ratio 2.5 (2 to 5); ours, not baseline"


def test_a_time_without_a_baseline_has_no_ratio(clock):
    row = bench.compare(
        "a thing", side(clock, [9, 2e-3, 3e-3, 1e-3], [], ""), options=OPTIONS, target="1 ms"
    )
    assert (row.ratio, row.spread()) == (None, "")
    assert row.text() == "a thing: 2 ms CPU; target: 1 ms"


@pytest.mark.parametrize(
    "seconds, text", [(1234.5, "1234 s"), (1.0, "1 s"), (0.0417, "41.7 ms"), (2.5e-8, "0.025 µs")]
)
def test_times_are_shown_with_three_digits(seconds, text):
    assert rows.shown(seconds) == text


def test_the_first_round_says_which_code_ran():
    first = rounds.measure(lambda: canonical_json({}), first=True)
    assert first.files == {"clip4vla/common/files.py"}
    assert rounds.measure(lambda: canonical_json({})).files == frozenset()


def test_the_code_of_both_sides_is_measured(monkeypatch):
    monkeypatch.setattr(rows, "measured_code", set())
    bench.compare("a json", lambda: "[]", lambda: canonical_json([]), options=OPTIONS)
    assert rows.measured_code == {"clip4vla/common/files.py"}


@pytest.mark.parametrize("masked", [False, True])
def test_attention_counts_as_its_products(masked):
    """Scores and their mix forward; both gradients of each, and scores again, backward."""
    x = torch.randn(2, 3, 5, 4, requires_grad=True)
    mask = torch.ones(5, 5, dtype=torch.bool).tril() if masked else None
    with rounds.operations() as counter:
        scaled_dot_product_attention(x, x, x, mask).sum().backward()
    assert counter.get_total_flops() == 7 * 2 * 2 * 3 * 5 * 5 * 4


@torch.no_grad()
def test_products_of_onednn_count():
    x, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    with rounds.operations() as counter:
        torch.nn.functional.linear(packed(x), weight)
    assert counter.get_total_flops() == 2 * 2 * 3 * 4 * 5


def peak():
    """Make a side that says its peak memory."""
    return rounds.peak_gib


def test_the_peak_of_a_side_apart_is_its_own():
    room = np.ones(2**27)  # 1 GiB, more than an idle process has
    with bench.Apart(peak) as apart:
        assert apart.round("cpu", first=False).result < rounds.peak_gib() - 0.5
    assert room.nbytes == 2**30


@pytest.fixture
def gpu(monkeypatch):
    """Counters of a GPU's memory in GiB, in use and at most, as torch gives them."""
    memory = {"used": 0.0, "most": 0.0}
    cuda = {
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: memory.update(most=memory["used"]),
        "memory_allocated": lambda: memory["used"] * rounds.GIB,
        "max_memory_allocated": lambda: memory["most"] * rounds.GIB,
    }
    for name, counter in cuda.items():
        monkeypatch.setattr(torch.cuda, name, counter)
    return memory


def model_on(memory, parameters, activations):
    """A side that keeps its parameters, and needs activations while it is called."""
    memory["used"] += parameters

    def call():
        memory["most"] = max(memory["most"], memory["used"] + activations)

    return call


def test_what_one_side_keeps_on_a_gpu_is_not_counted_for_the_other(gpu):
    options = argparse.Namespace(rounds=1, device="cuda")
    ours, baseline = model_on(gpu, 10, 1.5), model_on(gpu, 20, 2.25)
    row = bench.compare("a step", ours, baseline, options=options)
    assert row.note == "peak 1.50 against 2.25 GiB above what was held before"


class Elsewhere(bench.Apart):
    """A side with a GPU of its own."""

    def __init__(self, step):
        self.step = step

    def round(self, device, first):
        return rounds.measure(self.step, device, first)


def test_the_peak_of_a_side_apart_counts_its_parameters(gpu):
    options = argparse.Namespace(rounds=1, device="cuda")
    row = bench.compare("a step", Elsewhere(model_on(gpu, 10, 1.5)), options=options)
    assert row.note == "peak 11.50 GiB"


def test_a_process_of_a_cpu_has_no_peak_of_one_side(clock):
    ours = side(clock, [1, 1, 1, 1], [], "ours")
    assert bench.compare("a thing", ours, options=OPTIONS, memory=True).note == ""


def test_notes_are_of_the_last_rounds(clock):
    seen = []
    ours, baseline = counting(5), counting(1)
    note = lambda ours, baseline: seen.append((ours.result[0], baseline.result[0])) or ""  # noqa: E731
    bench.compare(
        "a thing", ours, baseline, options=argparse.Namespace(rounds=1), clock="wall", note=note
    )
    assert seen == [(6, 2)]


def counting(start):
    """Make a side that counts its calls and says where it runs."""
    calls = iter(range(start, start + 9))
    return lambda: (next(calls), os.getpid())


def test_a_side_apart_runs_in_a_process_of_its_own():
    with bench.Apart(counting, 5) as apart:
        found = [apart.round("cpu", first) for first in (True, False)]
    assert [result for result, _ in (one.result for one in found)] == [5, 6]
    assert found[0].result[1] == found[1].result[1] == apart.process.pid != os.getpid()
    assert apart.process.exitcode == 0


def broken():
    """Make a side that fails."""
    return lambda: 1 / 0


def test_an_error_of_a_side_apart_is_that_of_the_benchmark():
    failed = pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero")
    with bench.Apart(broken) as apart, failed:
        apart.round("cpu", first=False)


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Commands of toy benchmarks."""
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    for name, text in SCRIPTS.items():
        (tmp_path / f"{name}.py").write_text(text)
    return {name: str(tmp_path / f"{name}.py") for name in SCRIPTS}


def test_one_benchmark_that_fails_stops_no_other(toys, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "REPO", tmp_path)
    monkeypatch.setattr(suite, "RECORDED", tmp_path / "recorded.json")
    monkeypatch.setitem(suite.SETS, "quick", {n: toys[n] for n in ("fails", "needs", "toy")})
    monkeypatch.setattr("sys.argv", ["suite.py", "--record"])
    assert suite.main() == 1
    records = read_json(tmp_path / "build" / "bench" / "quick" / "results.json")
    assert records["fails"]["error"] == "failed: it broke"
    assert records["needs"]["rows"][0]["skipped"] == "no_such_package is not installed"
    good, skipped = records["toy"]["rows"]
    assert good["ratio"] > 0 and good["note"] == "199 letters"
    assert skipped["skipped"] == "no_such_package is not installed"
    files = [os.path.relpath(toys[name], rounds.REPO) for name in ("toy", "toy_baseline")]
    assert records["toy"]["code"] == sorted(["clip4vla/common/files.py", *files])
    assert set(read_json(tmp_path / "recorded.json")["quick"]) == {"needs", "toy"}
    assert "[1/3] fails failed: it broke" in capsys.readouterr().out
    write_json(tmp_path / "recorded.json", {"quick": {"needs": records["toy"]}})
    assert suite.main() == 1  # what is not measured now stays as it was
    assert read_json(tmp_path / "recorded.json")["quick"]["needs"] == records["toy"]
    table = (tmp_path / "build" / "bench" / "quick" / "results.md").read_text()
    assert "| `fails` | | | | | failed: it broke | not measured |" in table
    assert "| `toy`: a json | long \\| one, " in table


def state(pid):
    """The state of a process, as ps says it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def test_a_benchmark_over_its_time_is_stopped_with_its_processes(toys, tmp_path):
    record = suite.run_one("hangs", toys["hangs"], tmp_path, 1)
    assert record["error"] == "stopped after 1 s"
    started = tmp_path / "started"
    while started.exists() and state(started.read_text()) not in ("gone", "Z"):
        time.sleep(0.1)


@pytest.mark.parametrize("changed", ["toy", "toy_baseline"])
def test_records_are_kept_until_their_code_changes(changed, toys, tmp_path, capsys):
    again = partial(suite.run_all, {"toy": toys["toy"]}, tmp_path / "out", 60)
    first = again()
    assert again() == first
    assert "kept" in capsys.readouterr().out
    with open(toys[changed], "a") as stream:
        stream.write("# changed\n")
    assert again() != first
    assert "kept" not in capsys.readouterr().out


@pytest.mark.parametrize("place", ["room/code.py", "room"])
def test_rows_older_than_their_code_are_marked(place, tmp_path):
    code = tmp_path / "room" / "code.py"
    code.parent.mkdir()
    code.write_text("new = 1")
    name = os.path.relpath(tmp_path / place, rounds.REPO)
    row = {"name": "a step", "baseline": "plain", "baseline_seconds": 3.0, "seconds": 0.002}
    row |= {"ratio": 1500.0, "lowest": 1e3, "highest": 2e3, "note": "loss 1", "target": "2"}
    record = {"rows": [row], "date": "2026-11-30", "load": 1.5, "code": [name]}
    record |= {
        "machine": "2 cores of X",
        "software": "Python 3",
        "code_sha256": code_sha256([name]),
    }
    record |= {"seconds": 7.6, "cpu_seconds": 5.4, "peak_gib": 0.5}
    line = "| `a`: a step | plain, 3 s | 2 ms | 1.5e+03 (1e+03 to 2e+03) | 2 | loss 1 | 2026-11-30"
    table = markdown({"a": record})
    assert line + " |\n\n* 2 cores of X; Python 3.\n* All together: 8 s, 5 s of CPU, " in table
    code.write_text("new = 2")
    assert line + OLDER + " |\n" in markdown({"a": record})
    code.unlink()
    assert not is_current(record)


def parsed(script, words):
    """The options of a script."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{script[:-3]}", BENCHMARKS / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.parser().parse_args(words)


def test_commands_of_all_sets_parse():
    scripts = set()
    for commands in suite.SETS.values():
        for line in commands.values():
            script, *words = shlex.split(line)
            assert parsed(script, words).rounds >= 1, line
            scripts.add(script)
    known = {path.name for path in BENCHMARKS.glob("*.py")}
    assert scripts == known - {"suite.py", "usual.py"}
    assert suite.TINY.keys() == suite.GPU.keys()


def test_a_real_benchmark_by_the_runner(tmp_path):
    record = suite.run_one(
        "scores", "pair_scoring.py --texts 2 --clips 2 --rounds 1", tmp_path, 500
    )
    assert record["rows"][0]["ratio"] > 0, record
    assert "clip4vla/models/clip4vla/pair_scoring.py" in record["code"]


@pytest.mark.slow
@pytest.mark.parametrize("name", suite.TINY)
def test_benchmarks_of_a_gpu_run_tiny_on_a_cpu(name, tmp_path):
    record = suite.run_one(name, suite.TINY[name], tmp_path, 900)
    assert all(row["seconds"] > 0 for row in record["rows"]), record
    write_json(tmp_path / "record.json", record)  # no infinity or NaN in it

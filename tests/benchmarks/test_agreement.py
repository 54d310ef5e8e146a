"""Benchmarks whose sides disagree fail with one line and leave no record."""

import math
import os
from pathlib import Path

import bench
import pytest
import suite

TOY = """
import bench
def rows(options):
    yield bench.compare("one", lambda: 1, lambda: 1, against="it", options=options, note=difference)
    yield bench.compare("two", lambda: 1, lambda: 3, against="it", options=options, note=difference)
def difference(ours, baseline):
    return bench.agreed("they differ by", abs(ours.result - baseline.result), 1)
bench.main(bench.parser("Toy.", rounds=1), rows)
"""


def test_a_difference_within_its_bound_is_a_note():
    assert bench.agreed("sound differs by", 0.00412, 0.1) == "sound differs by 0.0041 (allowed 0.1)"
    assert bench.agreed("clips that differ:", 0, 0) == "clips that differ: 0 (allowed 0)"


@pytest.mark.parametrize("value", [0.1001, math.inf, math.nan])
def test_a_difference_beyond_its_bound_ends_the_benchmark(value):
    line = f"^the sides disagree: sound differs by {value:g}, allowed 0.1$"
    with pytest.raises(SystemExit, match=line):
        bench.agreed("sound differs by", value, 0.1)


def test_a_benchmark_whose_sides_disagree_fails(tmp_path, monkeypatch):
    paths = [str(Path(suite.__file__).parent), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    script = tmp_path / "toy.py"
    script.write_text(TOY)
    record = suite.run_one("toy", str(script), tmp_path, 60)
    assert record["error"] == "failed: the sides disagree: they differ by 2, allowed 1"
    assert "one: " in (tmp_path / "toy.log").read_text()
    assert not (tmp_path / "toy.json").exists()

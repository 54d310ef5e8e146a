"""Every input file of a stage, missing, empty, truncated, garbage or of another type.

Each is one line that names the file and the remedy: never a traceback, never a silent answer.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from clip4vla.cache.manifest import freeze, read_manifest, stay_frozen
from clip4vla.common.errors import UserError
from clip4vla.common.files import write_json, write_parquet
from clip4vla.config.run import HeldOut, read_run
from clip4vla.config.yaml import read_yaml
from clip4vla.datasets.leaks import find_leaks
from clip4vla.loading.loader import read_donors
from clip4vla.media.coverage_file import read_coverage
from clip4vla.media.server import Server
from clip4vla.models.clip4vla.weights import read_named
from clip4vla.models.common.tensor_files import read_metadata
from clip4vla.results.cost import read_costs
from clip4vla.results.metrics_file import read_metrics
from clip4vla.results.sheet import read_sheet
from clip4vla.runs.paired import compare_runs
from clip4vla.search.embedder import load
from clip4vla.stages.data import TABLE_COLUMNS, read_table
from clip4vla.tracking.record import read_record
from clip4vla.tracking.recorded import check_recorded

DEEP = 100_000
COUNTS = "expected,planned,fetched,with_video,with_sound,silent,remark"


@dataclass(frozen=True)
class File:
    """A file that a stage reads: how to write a good one, and who reads it."""

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    may_be_missing: bool = False  # what Snakemake or a first run makes, or state


def table(*columns: str) -> Callable[[Path], object]:
    return lambda path: write_parquet(path, pd.DataFrame({name: ["x"] for name in columns}))


def manifest(path: Path) -> None:
    parts = {name: {} for name in ("cache", "clips", "splits", "not_decodable", "tools", "files")}
    write_json(path, {"dataset": "demo-v1-0a1b2c", "shards": [], **parts})


def note(path: Path) -> None:
    manifest(path.with_name("manifest.json"))
    stay_frozen(path.with_name("manifest.json"))


def held_out(path: Path) -> None:
    table(*TABLE_COLUMNS["splits.parquet"])(path.with_name("splits.parquet"))
    table(*TABLE_COLUMNS["plan.parquet"])(path.with_name("plan.parquet"))


def leaks(path: Path) -> object:
    return find_leaks([HeldOut(dataset="d", splits=["x"])], ["d"], lambda _: path.parent)


def coverage(path: Path) -> None:
    held_out(path)
    path.write_text(f"split,{COUNTS}\nx,,3,3,3,2,1,\n")


def compared(path: Path) -> None:
    write_json(path.with_name("metrics.json"), {"run_key": "k", "task": "classification"})
    table("clip_id", "label", "predicted")(path)


def index(path: Path) -> object:
    return freeze(pd.DataFrame(), pd.DataFrame(), [path], "demo", None, path.parent)


def refusal(path: Path) -> float:
    server = Server("http://a.b/", path.parents[1])
    assert server.folder == path.parent
    return server.refused_until()


def weights(path: Path) -> None:
    save_file({"text.x": torch.zeros(2)}, path, metadata={"clip4vla": "{}"})


def costs(path: Path) -> None:
    write_json(path.with_name("cost.json"), {"hours": 1, "hardware": {}, "attempts": 1})
    write_json(path.with_name("train.json"), {"batch_size": 1, "trainable_parameters": 1})


DONORS = "clip_id\tdonor\tcosine\trandom_donor\na\tb\t0.5\tc\n"
FILES = [
    *(File(name, table(*columns), read_table) for name, columns in TABLE_COLUMNS.items()),
    File("splits.parquet", held_out, leaks),
    File("plan.parquet", held_out, leaks),
    File("0.parquet", table("clip_id", "cache", "detail", "tools"), index),
    File("coverage.csv", coverage, read_coverage),
    File(
        "substitution.tsv",
        lambda path: path.write_text(DONORS),
        lambda path: read_donors({"vision": path}, "substitute"),
    ),
    File("manifest.json", manifest, read_manifest),
    File(
        "frozen.sha256",
        note,
        lambda path: read_manifest(path.with_name("manifest.json")),
        may_be_missing=True,
    ),
    File("a.b/refused.json", lambda p: write_json(p, {"until": 1}), refusal, may_be_missing=True),
    File("predictions.parquet", compared, lambda path: compare_runs(path.parent, path.parent)),
    File("cost.json", costs, lambda path: read_costs(["."], path.parent), may_be_missing=True),
    File("train.json", costs, lambda path: read_costs(["."], path.parent), may_be_missing=True),
    File("metrics.json", lambda path: write_json(path, {}), read_metrics),
    File("rows.json", lambda path: write_json(path, {}), read_sheet),
    File("config.json", lambda path: write_json(path, {}), lambda path: read_run(path, "k")),
    File("record.json", lambda path: write_json(path, {}), read_record),
    File(
        "record.json",
        lambda path: write_json(path, {}),
        lambda path: check_recorded(path.with_name("x.json")),
        may_be_missing=True,
    ),
    File("config.yaml", lambda path: path.write_text("a: {b: 1}\n"), read_yaml),
    File("model.safetensors", weights, read_metadata),
    File("model.safetensors", weights, read_named),
    File("model.safetensors", weights, load),
]


def good(file: File, folder: Path) -> Path:
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    file.write(path)
    return path


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: max(1, path.stat().st_size * 2 // 3)])


def other_type(path: Path) -> None:
    """Write a valid file of the same format with other contents."""
    if path.suffix == ".parquet":
        write_parquet(path, pd.DataFrame({"other": [1]}))
    elif path.suffix == ".safetensors":
        save_file({"x": torch.zeros(1)}, path)
    elif path.suffix in (".csv", ".tsv"):
        path.write_text("other\n1\n")
    else:
        path.write_text("[1, 2]\n")


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": truncated,
    "garbage": lambda path: path.write_bytes(np.random.default_rng(0).bytes(3000)),
    "zeros": lambda path: path.write_bytes(bytes(3000)),
    "another type": other_type,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "nested deep": lambda path: path.write_text("[" * DEEP),
}


def line_of(call: Callable[[Path], object], path: Path) -> str:
    """Return the one line that a user gets, for our own errors and for those of the disk."""
    try:
        call(path)
    except UserError as error:
        return str(error)
    except OSError as error:
        assert error.errno is not None
        return f"{error.filename}: {error.strerror}. Fix: "
    raise AssertionError(f"{path.name} was read without a word")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_damaged_file_is_one_line_with_its_name(tmp_path, file, damage):
    path = good(file, tmp_path)
    DAMAGES[damage](path)
    if file.may_be_missing and not path.is_file():
        with contextlib.suppress(IsADirectoryError, UserError):
            file.read(path)
        return
    if damage == "empty" and file.name == "config.yaml":
        assert file.read(path).value == {}  # an empty config says nothing, which is allowed
        return
    line = line_of(file.read, path)
    assert path.name in line and "\n" not in line, line
    assert any(
        word in line
        for word in (
            "Fix: ",
            "run ",
            "again",
            "give ",
            "name the",
            "not valid YAML",
            "convert it",
            "was expected",
        )
    ), line


def test_half_a_coverage_file_is_refused_at_every_cut(tmp_path):
    path = tmp_path / "coverage.csv"
    lists = pd.DataFrame({name: ["x", "y"] for name in TABLE_COLUMNS["splits.parquet"]})
    write_parquet(path.with_name("splits.parquet"), lists.assign(split=["x", "y"]))
    text = f"split,{COUNTS}\nx,,3,3,3,2,1,\ny,4,3,3,3,2,1,planned 3 of 4\n"
    path.write_text(text)
    assert read_coverage(path).planned.tolist() == [3, 3]
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(UserError, match=r"coverage\.csv: .*Fix: "):
            read_coverage(path)


@pytest.mark.parametrize("text", ["a: " + "[" * DEEP, "{a: " * DEEP, "- " * DEEP + "a"])
def test_yaml_nested_thousands_deep(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert "nested too deeply" in line_of(read_yaml, path)


def test_metadata_nested_thousands_deep(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"text.x": torch.zeros(2)}, path, metadata={"clip4vla": "[" * DEEP + "]" * DEEP})
    assert "model.safetensors: not written by this project" in line_of(read_metadata, path)


def test_json_nested_thousands_deep_is_valid_and_refused(tmp_path):
    for file in FILES:
        if file.name.endswith(".json"):
            path = good(file, tmp_path)
            path.write_text(json.dumps({"a": 1})[:-1] + ', "b": ' + "[" * DEEP + "]" * DEEP + "}")
            assert path.name in line_of(file.read, path)
            path.unlink()

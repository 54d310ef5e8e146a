import json

import pytest

from clip4vla.common.errors import UserError
from clip4vla.tracking import read_record, write_record


def write(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.json").write_text("{}")
    arguments = {
        "kind": "finetune",
        "key": "k",
        "name": "table1/row/s0",
        "params": {"optimiser": {"lr": 1e-6}, "list": [1, 2], "start": None},
        "tags": {"data_version": "demo-v1-0a1b2c"},
        "metrics": {"t2v_R1": 5},
        "artifacts": [folder / "a.json"],
        "inputs": ["b", "a", "b"],
    }
    write_record(folder / "record.json", **{**arguments, **changes})
    return folder / "record.json"


def test_content_does_not_depend_on_the_folder(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two" / "deep")
    assert one.read_bytes() == two.read_bytes()
    record, digest = read_record(one)
    assert (record.artifacts, record.inputs) == (["a.json"], ["a", "b"])
    assert record.params == {"optimiser.lr": "1e-06", "list": "[1, 2]", "start": "null"}
    assert digest == read_record(two)[1]


def test_a_changed_file_is_a_changed_record(tmp_path):
    before = read_record(write(tmp_path))[1]
    extra = tmp_path / "b.json"
    extra.write_text("1")
    one = read_record(write(tmp_path, artifacts=[extra]))[1]
    extra.write_text("2")
    two = read_record(write(tmp_path, artifacts=[extra]))[1]
    assert len({before, one, two}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "training"}, "kind 'training'"),
        ({"metrics": {"loss": float("nan")}}, "metric loss is nan"),
        ({"curve": "nowhere.jsonl"}, "nowhere.jsonl is missing"),
    ],
)
def test_invalid_records_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path, **changes)


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"kind": "data"})])
def test_an_invalid_record_is_named(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match="not a record of a stage"):
        read_record(tmp_path / "record.json")

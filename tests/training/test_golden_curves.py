"""The losses of tiny runs are those that were recorded: no silent change of what is trained."""

import json

import golden_curves
import pytest
from golden_curves import FILE, TOLERANCE, curves

RECORDED = json.loads(FILE.read_text())


def test_the_recorded_losses_come_back(tmp_path):
    found = curves(tmp_path)
    for name, expected in RECORDED["curves"].items():
        assert found[name] == pytest.approx(expected, rel=TOLERANCE), (
            f"{name}: the training has changed; if that is meant, run "
            f"`python {golden_curves.__file__} --reason ...`"
        )


def test_every_recording_has_its_reason():
    assert RECORDED["reasons"]
    assert all(len(entry["reason"].split()) >= 3 for entry in RECORDED["reasons"])


def test_new_curves_are_not_recorded_without_a_reason(tmp_path, monkeypatch):
    changed = {name: [loss + 1 for loss in curve] for name, curve in RECORDED["curves"].items()}
    copy = tmp_path / "loss_tiny.json"
    copy.write_text(FILE.read_text())
    monkeypatch.setattr(golden_curves, "FILE", copy)
    monkeypatch.setattr(golden_curves, "curves", lambda folder: changed)
    monkeypatch.setattr("sys.argv", ["golden_curves.py"])
    with pytest.raises(SystemExit, match="--reason"):
        golden_curves.main()
    assert json.loads(copy.read_text()) == RECORDED
    monkeypatch.setattr("sys.argv", ["golden_curves.py", "--reason", "losses are one higher"])
    golden_curves.main()
    refreshed = json.loads(copy.read_text())
    assert refreshed["curves"] == changed
    assert refreshed["reasons"][-1]["reason"] == "losses are one higher"
    golden_curves.main()  # equal: nothing to write
    assert json.loads(copy.read_text()) == refreshed

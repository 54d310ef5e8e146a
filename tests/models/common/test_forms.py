"""A file that cannot be one of weights is told before anything is spent on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clip4vla.cli import doctor
from clip4vla.config.planner import make_plan
from clip4vla.models.common.forms import form_of, unfit_weights

REPO = Path(__file__).parents[3]
WORDS = {"visual.conv1.weight": torch.arange(6.0)}


def plan_with(path):
    values = {
        "targets": ["demo_classification"],
        "weights": {"mine": {"path": str(path)}},
        "recipe": {"model": {"weights": "mine", "architecture": "ViT-B-32"}, "pretrain": None},
    }
    return make_plan([REPO / "config.yaml", REPO / "demo" / "config.yaml"], values)


def test_a_web_page_under_the_name_of_weights_is_unfit(tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    plan = plan_with(path)
    assert unfit_weights(plan) == [], "a file that is missing is another matter"
    path.write_text("<html>Sign in</html>")
    said = f"{path}: is a web page (HTML or XML), not weights. Fix: download the file itself"
    [line] = unfit_weights(plan)
    assert line.startswith(f"weights mine: {said}")


def test_a_named_pipe_is_not_read(tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    os.mkfifo(path)
    [line] = unfit_weights(plan_with(path))
    assert line.startswith(f"weights mine: {path}: is not a regular file. Fix: give a safetensors")


@pytest.mark.parametrize("form", ["safetensors", "zip", "pickle"])
def test_weights_are_fit(tmp_path, form):
    path = tmp_path / "x"
    if form == "safetensors":
        save_file(WORDS, path, metadata={"clip4vla": "{}"})
    else:
        torch.save(WORDS, path, _use_new_zipfile_serialization=form == "zip")
    assert form_of(path) == form
    assert unfit_weights(plan_with(path)) == []


def test_telling_the_form_needs_no_torch():
    """The workflow asks at its start, which shall take no time."""
    text = "import sys, clip4vla.models.common.forms; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_the_doctor_looks_at_weights_that_are_there(tmp_path):
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.pt"
    save_file(WORDS, good)
    bad.write_bytes(b"")
    absent = tmp_path / "absent.pt"
    found = doctor.weight_files({"good": good, "absent": absent})
    assert (found.state, found.found) == ("ok", "1 of 2 files are there")
    found = doctor.weight_files({"good": good, "bad": bad})
    assert found.state == "fail" and found.remedy == "download it again"
    assert found.found == f"bad: {bad}: cannot be read as weights: it is empty"

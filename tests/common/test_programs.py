"""Hints name programs so that they can be pasted, in an activated environment or not."""

import sys

from clip4vla.common.programs import program


def test_a_program_off_the_path_is_named_by_its_file(tmp_path, monkeypatch):
    own = tmp_path / "my env" / "bin"
    other = tmp_path / "other"
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "mlflow").write_text("#!/bin/sh\n")
        (folder / "mlflow").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.setenv("PATH", str(own))
    assert program("mlflow") == "mlflow"
    monkeypatch.setenv("PATH", str(other))
    assert program("mlflow") == f"'{own}/mlflow'"
    monkeypatch.chdir(tmp_path)
    assert program("mlflow") == "'my env/bin/mlflow'"
    assert program("absent") == "absent"

"""demo/notebook.ipynb, cell by cell, on outputs in the form of the demo's."""

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest

REPO = Path(__file__).parents[2]
NOTEBOOK = nbformat.read(REPO / "demo" / "notebook.ipynb", as_version=4)
SHARES = {"w00": 0.0, "w05": 0.5, "w10": 1.0}


@pytest.fixture
def outputs(tmp_path, weights, monkeypatch):
    """Results of one retrieval row and a sweep, and the tiny checkpoint behind them."""
    results = tmp_path / "results"
    common = {"seed": 0, "run_key": "0" * 12}
    rows = [
        {"table": "demo_retrieval", "row": "clip4vla", "gallery": "all", "metric": "t2v_R1", "value": 5.0},
        *(
            {"table": "demo_figure4", "row": row, "gallery": "with_sound", "metric": f"t2a_R{k}", "value": k + share}
            for k in (1, 5, 10)
            for row, share in reversed(SHARES.items())
        ),
    ]  # fmt: skip
    for key in ("0" * 12, "1" * 12):
        (results / "runs" / key).mkdir(parents=True)
    pd.DataFrame([common | row for row in rows]).to_csv(results / "tidy.csv", index=False)
    metrics = {"checkpoint": {"run_key": "1" * 12}}
    (results / "runs" / ("0" * 12) / "metrics.json").write_text(json.dumps(metrics))
    (results / "runs" / ("1" * 12) / "model.safetensors").symlink_to(weights)
    sheet = results / "tables" / "demo_figure4" / "rows.json"
    sheet.parent.mkdir(parents=True)
    sheet.write_text(json.dumps({"rows": [{"row": r, "at": at} for r, at in SHARES.items()]}))
    monkeypatch.setenv("CLIP4VLA_DEMO", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(REPO / "demo")


def test_the_notebook_runs(outputs):
    names: dict = {}
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "notebook.ipynb", "exec"), names)
    assert names["similar"].shape == (2, 3)
    assert names["order"][0] == 0  # a sound is nearest to itself
    line = names["axis"].get_lines()[0]
    assert list(line.get_xdata()) == [0.0, 0.5, 1.0] and list(line.get_ydata()) == [1.0, 1.5, 2.0]


def test_the_notebook_is_committed_without_outputs():
    nbformat.validate(NOTEBOOK)
    code = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)

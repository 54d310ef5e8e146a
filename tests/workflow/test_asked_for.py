"""A target is stopped by files that its own jobs need, not by those of rows nobody asked for."""

import pytest
import yaml
from test_static import REPO, snakemake

from clip4vla.config.planner import make_plan
from clip4vla.config.recorded import recorded_config

TABLE = """
table: other
title: Other
gallery: with_sound
columns: [{dataset: esc50, metric: accuracy, label: accuracy}]
base: {task: classification, modalities: [audio], missing_audio: filter, pretrain: null,
       finetune.train: train_ours_1, finetune.val: val_ours_1, test: test_1}
rows: [{row: audio, label: audio}]
"""


@pytest.fixture
def config(tmp_path):
    """The demo's retrieval beside a table whose dataset is not here."""
    tables = tmp_path / "tables"
    tables.mkdir()
    shared = REPO / "demo" / "experiments" / "demo_retrieval.yaml"
    (tables / shared.name).write_text(shared.read_text())
    (tables / "other.yaml").write_text(TABLE)
    path = tmp_path / "mine.yaml"
    document = {"experiments": "tables", "targets": ["demo_retrieval", "other"]}
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_row_that_was_not_asked_for_stops_none_that_was(tmp_path, config):
    files = [REPO / "demo" / "config.yaml", config]
    plan = make_plan([REPO / "config.yaml", *files])
    names = {name: version for version, name in plan.versions.items()}
    given = ("--cores", "1", "--configfile", *map(str, files), "--")
    done = snakemake(*given, f"data/{names['demo']}/plan.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    recorded = recorded_config(tmp_path)
    assert recorded.files == [REPO / "config.yaml", *files] and recorded.values == {}
    for target in (f"data/{names['esc50']}/plan.parquet", "results/rows/other/audio", "all"):
        done = snakemake(*given, target, cwd=tmp_path)
        text = done.stdout + done.stderr
        assert done.returncode != 0 and "esc50: its annotations in" in text
        assert "demo: its annotations" not in text

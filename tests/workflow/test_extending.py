"""The worked examples of docs/extending.md, run as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

import clip4vla.datasets
from clip4vla.common.errors import UserError
from clip4vla.config.part import narrowed
from clip4vla.config.planner import make_plan
from clip4vla.datasets import readers
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.stages import data as stage

REPO = Path(__file__).parents[2]
TEXT = (REPO / "docs" / "extending.md").read_text()


def example(heading: str, language: str, number: int = 0) -> str:
    """The n-th block of a language under a heading."""
    section = next(part for part in TEXT.split("\n## ") if part.startswith(heading))
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]


def test_a_new_row_is_one_line_and_trains_what_is_new(tmp_path):
    table = (REPO / "experiments" / "table5.yaml").read_text()
    line = example("A new ablation row", "yaml")
    assert len(line.splitlines()) == 1
    (tmp_path / "table5.yaml").write_text(table.rstrip("\n") + "\n" + line)
    values = {"experiments": str(tmp_path), "targets": ["table5"]}
    before = make_plan([REPO / "config.yaml"], {"targets": ["table5"]})
    after = make_plan([REPO / "config.yaml"], values)
    new = set(after.runs) - set(before.runs)
    assert set(before.runs) <= set(after.runs)
    row = narrowed(after, "table5/paper_masks")
    assert new <= set(row.runs)
    assert [after.runs[key].masking.mode for key in row.stage("pretrain")] == ["paper"]


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """The module of the example, found beside the others, and its annotation file."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "birds.py").write_text(example("A new dataset", "python"))
    monkeypatch.setattr(
        clip4vla.datasets, "__path__", [*clip4vla.datasets.__path__, str(tmp_path / "modules")]
    )
    readers.cache_clear()
    notes = tmp_path / "birds" / "notes"
    notes.mkdir(parents=True)
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    lines = [f"bird{i},{split},a bird sings" for i, split in enumerate(splits)]
    (notes / "clips.csv").write_text("\n".join(["id,split,caption", *lines]) + "\n")
    (tmp_path / "mine.yaml").write_text(example("A new dataset", "yaml"))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "birds_table.yaml").write_text(
        "table: birds_table\ntitle: Birds\n"
        'columns: [{dataset: birds, metric: t2v_R1, label: "R@1"}]\n'
        "rows: [{row: clip, label: CLIP}]\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    readers.cache_clear()
    sys.modules.pop("clip4vla.datasets.birds", None)


def test_a_new_dataset_is_a_module_and_an_entry(birds):
    values = {"experiments": "tables", "targets": ["birds_table"]}
    plan = make_plan([REPO / "config.yaml", birds / "mine.yaml"], values)
    (version,) = plan.versions
    stage.plan(plan, version)
    clips = pd.read_parquet(birds / "data" / version / "plan.parquet")
    assert len(clips) == 8 and set(clips.file) == {f"bird{i}.mp4" for i in range(8)}
    with open("birds/notes/clips.csv", "a") as stream:
        stream.write("bird0,train,the same id again\n")
    with pytest.raises(UserError, match=r"clips\.csv, line 10.*bird0"):
        stage.plan(plan, version)


def changed(text: str, block: str) -> str:
    """Apply a block of changes, whose parts are separated by @@, to the text of a file."""
    for part in block.split("@@\n"):
        lines = part.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        assert text.count(old) == 1, f"not once in the file:\n{old}"
        text = text.replace(old, "".join(line[1:] for line in lines if line[0] in " +"))
    return text


def copy_of_the_package(folder: Path) -> None:
    """Copy the package into a folder, where a test may change it."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "clip4vla", folder / "clip4vla", ignore=ignore)


def apply(heading: str, folder: Path, count: int) -> None:
    """Apply the changes under a heading to a copy of the package."""
    for number in range(count):
        name, block = example(heading, "diff", number).split("\n", 1)
        path = folder / name.removeprefix("--- ")
        path.write_text(changed(path.read_text(), block))


def with_row(folder: Path, table: str, row: str) -> None:
    """Write tables/<table>.yaml: a shipped table with one more row."""
    text = (REPO / "experiments" / f"{table}.yaml").read_text()
    (folder / "tables").mkdir()
    (folder / "tables" / f"{table}.yaml").write_text(text.rstrip("\n") + "\n" + row)


def keys_of(plan) -> dict[str, list[str]]:
    """Return the keys of the evaluations of each row."""
    keys: dict[str, list[str]] = {}
    for cell in plan.cells:
        keys.setdefault(cell.row, []).append(cell.run_key)
    return keys


TRAINED = """
import json, sys
from pathlib import Path
from tiny_world import build_world, finetune, pretrain
from clip4vla.config.planner import make_plan
from clip4vla.training.train import train

config, folder, table, stage, changes = sys.argv[1:]
folder = Path(folder)
values = {"experiments": str(folder / "tables"), "targets": [table]}
keys = {}
for cell in make_plan([Path(config)], values).cells:
    keys.setdefault(cell.row, []).append(cell.run_key)
run = {"pretrain": pretrain, "finetune": finetune}[stage](**json.loads(changes))
train(run, build_world(folder / "world"), None, {}, None, folder / "state", folder / "out")
lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
print(json.dumps({"keys": keys, "curve": [json.loads(line) for line in lines]}))
"""


def trained(folder: Path, table: str, stage: str, **changes) -> dict:
    """Plan a table with the changed package, and train a tiny run: its keys and its curve."""
    arguments = [str(REPO / "config.yaml"), str(folder), table, stage, json.dumps(changes)]
    path = f"{folder}{os.pathsep}{REPO / 'tests' / 'helpers'}"
    done = subprocess.run(
        [sys.executable, "-c", TRAINED, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    found["curve"] = [row for row in found["curve"] if "train/loss" in row]
    assert len(found["curve"]) > 2
    return found


def test_a_new_loss_is_a_function_a_switch_and_a_term(tmp_path):
    """In a copy of the package it trains, and changes no key of another row."""
    copy_of_the_package(tmp_path)
    with open(tmp_path / "clip4vla/models/common/losses.py", "a") as stream:
        stream.write(example("A loss", "python"))
    apply("A loss", tmp_path, count=2)
    with_row(tmp_path, "table5", example("A loss", "yaml"))
    before = make_plan([REPO / "config.yaml"], {"targets": ["table5"]})
    found = trained(tmp_path, "table5", "pretrain", objective={"alignment": 0.5})
    assert not set(found["keys"].pop("aligned")) & set(before.runs)
    assert found["keys"] == keys_of(before)
    names = ("text_audio", "vision_audio", "audio_audio", "alignment")
    for step in found["curve"]:
        assert 0 < step["train/alignment"] <= 2  # half of a distance up to 4
        total = sum(step[f"train/{name}"] for name in names)
        assert step["train/loss"] == pytest.approx(total, rel=1e-4)


FAMILY = "Another model family"


def test_a_new_family_is_a_package_and_a_line(tmp_path):
    """The helper of the tests, put where the text says, plans and trains; other keys stay."""
    copy_of_the_package(tmp_path)
    shutil.copytree(REPO / "tests" / "helpers" / "toy", tmp_path / "clip4vla" / "models" / "toy")
    apply(FAMILY, tmp_path, count=1)
    with_row(tmp_path, "table1", example(FAMILY, "yaml"))
    before = make_plan([REPO / "config.yaml"], {"targets": ["table1"]})
    found = trained(tmp_path, "table1", "finetune", model={"family": "toy"}, missing_audio="none")
    assert not set(found["keys"].pop("toy")) & set(before.runs)
    assert found["keys"] == keys_of(before)


def lines_of(text: str) -> str:
    """Return code without its indentation, which a text and a class differ in."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def test_the_family_of_the_text_is_the_one_that_the_tests_train():
    section = next(part for part in TEXT.split("\n## ") if part.startswith(FAMILY))
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    files = (REPO / "tests" / "helpers" / "toy").glob("*.py")
    helper = [lines_of(path.read_text()) for path in files]
    assert len(blocks) == 5
    for block in blocks:
        assert any(lines_of(block) in text for text in helper), (
            f"not in tests/helpers/toy:\n{block}"
        )


def test_another_clip_is_one_word(tmp_path):
    (tmp_path / "mine.yaml").write_text(example("Another CLIP", "yaml"))
    plan = make_plan([REPO / "config.yaml", tmp_path / "mine.yaml"], {"targets": ["table5"]})
    usual = make_plan([REPO / "config.yaml"], {"targets": ["table5"]})
    assert not set(plan.runs) & set(usual.runs)
    assert {run.model.architecture for run in plan.runs.values()} == {"ViT-B-16"}
    assert resolve("ViT-B-16").patch_size == 16


def test_its_cost_is_as_the_docs_say():
    from clip4vla.config.run import Source, Substitute
    from clip4vla.cost.models import Models
    from clip4vla.cost.units import ClipSize
    from clip4vla.models.clip4vla.settings import Model

    def frame(architecture):
        source = Source(dataset="d", cache_id="c", split="s")
        model = Model(architecture=architecture, weights=None)
        run = Substitute(start=None, queries=[source], donors=source, model=model)
        return Models().donors(run, ClipSize(frames=1, segments=0))

    told = float(re.search(r"\(([\d.]+) times the operations", TEXT)[1])
    assert frame("ViT-B-16") / frame("ViT-B-32") == pytest.approx(told, abs=0.1)


def test_another_cluster_is_one_command(tmp_path):
    words = example("Another cluster", "").strip().split()
    assert words[:2] == ["clip4vla", "setup"]
    command = [sys.executable, "-m", "clip4vla", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    profile = yaml.safe_load(done.stdout)
    assert profile["set-resources"]["pretrain_run"]["nodes"] == 4
    assert "mylab" in done.stdout and "nvlink" in done.stdout

"""Commands load no library that they do not need (benchmarks/start_up.py measures the time)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clip4vla.config import keys
from clip4vla.config.keys import run_key
from clip4vla.config.planner import make_plan

LISTED = "import json, sys; print(json.dumps(sorted(sys.modules)))"
ANSWERS = {"torch", "numpy", "pandas", "pyarrow", "open_clip", "mlflow"}
ROWS = {f"clip4vla.config.{name}" for name in ("recipe", "run", "planner", "layers", "chain")}
FAMILY = "clip4vla.models.clip4vla.family"
NEVER = {
    *("torch._dynamo", "torch._inductor", "torchvision.models", "torchvision.ops.poolers", "timm"),
    *("open_clip.coca_model", "open_clip.tokenizer", "transformers", "huggingface_hub", "ftfy"),
    *("mlflow", "matplotlib", "scipy", "sklearn", "sympy", "torchaudio", "av", "webdataset"),
}


def loaded(code, *arguments):
    """The modules that a new Python has loaded after this code."""
    end = f"import atexit\natexit.register(lambda: exec({LISTED!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", end + code, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    return set(json.loads(done.stdout.splitlines()[-1])), done.stderr


def command(*arguments):
    return loaded("from clip4vla.cli.main import main\nmain()", *arguments)


@pytest.mark.parametrize(
    "names, also",
    [
        ("clip4vla.training.train, clip4vla.tracking.live", {"pandas"}),
        ("clip4vla.evaluation.evaluate, clip4vla.pages.examples, clip4vla.stages.lineage", set()),
        ("clip4vla.inference.donors, clip4vla.pages.donors", set()),
    ],
)
def test_trainer_and_evaluation_load_few_libraries(names, also):
    modules, problems = loaded(f"import {FAMILY}, {names}")
    assert {FAMILY, *names.split(", "), "torch"} <= modules, problems
    assert modules & (NEVER | also) == set()


@pytest.mark.parametrize("stage", ["train", "evaluate", "substitute"])
def test_an_unknown_run_is_refused_without_arrays(stage):
    modules, problems = command(stage, "0123456789ab")
    assert "0123456789ab" in problems
    assert modules & ANSWERS == set()


@pytest.mark.parametrize(
    "arguments, answer",
    [
        (("--help",), ""),
        (("targets",), ""),
        (("targets", "--set", '{"seeed": 1}'), "unknown key"),
        (("plan", "tabel4"), "did you mean table4"),
        (("runs", "ls", "table5/scrath"), "did you mean results/rows/table5/scratch"),
    ],
)
def test_names_are_known_before_rows_are_expanded(arguments, answer):
    modules, problems = command(*arguments)
    assert answer in problems
    assert modules & (ANSWERS | ROWS) == set()


def test_pydantic_searches_no_package_for_plugins():
    """`PYDANTIC_DISABLE_PLUGINS` in main.py comes before the first model, and still means this."""
    code = "import importlib.metadata as m\nm.entry_points = None\n"
    _, problems = loaded(f"{code}from clip4vla.cli.main import main\nmain()", "targets")
    assert "Error" not in problems


def test_rows_with_equal_recipes_share_their_runs(monkeypatch):
    """The runs of the shipped tables are built about once, not once for each of their cells."""
    built = []
    monkeypatch.setattr(keys, "run_key", lambda run: built.append(run) or run_key(run))
    plan = make_plan([Path(__file__).parents[1] / "config.yaml"])
    assert len(plan.runs) <= len(built) < 1.5 * len(plan.runs)


@pytest.mark.parametrize(
    "optimiser",
    [
        "from clip4vla.training.uncompiled import AdamW\nmade = AdamW([p])",
        "from clip4vla.training.bert_adam import BertAdam\n"
        "made = BertAdam([{'params': [p], 'weight_decay': 0.0}], 1.0, (0.9, 0.98), 1e-6, 1.0)",
    ],
    ids=["AdamW", "BertAdam"],
)
def test_an_update_loads_no_compiler(optimiser):
    """Neither the optimisers, nor what torch wraps around them, nor the loss scale."""
    start = f"import torch\np = torch.nn.Parameter(torch.ones(2))\n{optimiser}\n"
    update = "(p * p).sum().backward()\ntorch.amp.GradScaler(enabled=False).step(made)\n"
    end = "made.zero_grad()\nmade.load_state_dict(made.state_dict())\nassert p.max() < 1"
    modules, problems = loaded(start + update + end)
    assert not problems
    assert {"torch._dynamo", "sympy"} & modules == set()

"""Commands load no library that they do not need (benchmarks/start_up.py measures the time)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LISTED = "import json, sys; print(json.dumps(sorted(sys.modules)))"
ANSWERS = {"torch", "numpy", "pandas", "pyarrow", "open_clip", "mlflow"}
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


@pytest.mark.parametrize(
    "arguments, answer",
    [
        (("--help",), ""),
        (("targets",), ""),
        (("targets", "--set", '{"seeed": 1}'), "seeed"),
        (("plan", "tabel4"), "tabel4"),
        (("train", "0123456789ab"), "0123456789ab"),
        (("evaluate", "0123456789ab"), "0123456789ab"),
        (("substitute", "0123456789ab"), "0123456789ab"),
    ],
)
def test_answers_load_no_arrays(arguments, answer):
    modules, problems = command(*arguments)
    assert answer in problems
    assert modules & ANSWERS == set()

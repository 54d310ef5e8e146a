"""What commands cost before they begin: CPU time (user and system) of imports and of short answers.

    python benchmarks/start_up.py

Every round starts new processes, in turn with `import torch` or `import pydantic`, so that a busy
machine changes a ratio little. Python may write bytecode, as usual. Targets: a trainer or an
evaluation imports for at most 1.3 times what torch takes; answers that need no torch take half a
second; the price of all tables takes two, once it was counted. A process that ends with another
exit code than it should ends the benchmark.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bench

from clip4vla.common.errors import EXIT_USER_ERROR

STAGE = (
    "from clip4vla.common.late_packages import without_collection\n"
    "with without_collection():\n"
    "    import clip4vla.models.clip4vla.family, {}"
)
IMPORTS = {
    "train": STAGE.format("clip4vla.training.train"),
    "evaluate": STAGE.format("clip4vla.evaluation.evaluate, clip4vla.pages.examples"),
    "substitute": STAGE.format("clip4vla.inference.donors, clip4vla.pages.donors"),
}
ANSWERS = {
    "--help": (("--help",), 0),
    "targets": (("targets",), 0),
    "a wrong key": (("targets", "--set", '{"seeed": 1}'), EXIT_USER_ERROR),
    "a mistyped target": (("plan", "tabel4"), EXIT_USER_ERROR),
    "an unknown run": (("train", "0123456789ab"), EXIT_USER_ERROR),
}
ENVIRONMENT = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}


def python(*arguments, code=0, **variables):
    """A side: a new Python with these arguments and variables, which ends with this exit code."""
    quiet, environment = subprocess.DEVNULL, ENVIRONMENT | variables

    def run():
        command = [sys.executable, *arguments]
        found = subprocess.run(command, stdout=quiet, stderr=quiet, env=environment).returncode
        if found != code:
            raise SystemExit(f"python {list(arguments)}: exit code {found} instead of {code}")

    return run


def parser():
    return bench.parser(__doc__, rounds=5)


def rows(options):
    for name, code in IMPORTS.items():
        yield bench.compare(
            f"what {name} imports",
            python("-c", code),
            python("-c", "import torch"),
            against="import torch",
            options=options,
            target="at least 0.77 (1.3 times torch)",
        )
    for name, (arguments, code) in ANSWERS.items():
        yield bench.compare(
            f"answer: {name}",
            python("-m", "clip4vla", *arguments, code=code),
            python("-c", "import pydantic"),
            against="import pydantic",
            options=options,
            target="at most 0.5 s",
        )
    with tempfile.TemporaryDirectory() as cache:
        again = python("-m", "clip4vla", "plan", "all", "--json", XDG_CACHE_HOME=cache)

        def first():
            shutil.rmtree(Path(cache, "clip4vla"), ignore_errors=True)
            return again()

        yield bench.compare(
            "answer: plan all, counted before",
            again,
            first,
            against="the first time",
            options=options,
            target="at most 2 s",
        )


if __name__ == "__main__":
    bench.main(parser(), rows, code=["clip4vla"])

"""What commands cost before they begin: CPU time (user and system) of imports and of short answers.

    python benchmarks/start_up.py

Every line is the least of some runs in new processes, in turn with `import torch`, so that a busy
machine changes a ratio little. Python may write bytecode, as usual. Targets: a trainer or an
evaluation imports for at most 1.3 times what torch takes; answers that need no torch take half a
second.
"""

import argparse
import os
import resource
import subprocess
import sys

TORCH = "import torch"
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
    "--help": ("--help",),
    "targets": ("targets",),
    "a wrong key": ("targets", "--set", '{"seeed": 1}'),
    "a mistyped target": ("plan", "tabel4"),
    "an unknown run": ("train", "0123456789ab"),
}


ENVIRONMENT = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}


def cpu_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = subprocess.DEVNULL
    subprocess.run([sys.executable, *arguments], stdout=quiet, stderr=quiet, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    times = {name: [] for name in ("torch", *IMPORTS, *ANSWERS)}
    for _ in rounds:
        for name, code in {"torch": TORCH, **IMPORTS}.items():
            times[name].append(cpu_seconds("-c", code))
        for name, arguments in ANSWERS.items():
            times[name].append(cpu_seconds("-m", "clip4vla", *arguments))
    torch = min(times["torch"])
    for name, found in times.items():
        ratio = f"  {min(found) / torch:.2f} times torch" if name in IMPORTS else ""
        print(f"{name:20} {min(found):5.2f} s{ratio}")


if __name__ == "__main__":
    main()

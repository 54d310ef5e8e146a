"""What the targets would run, printed before anything is spent."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from clip4vla.config.layout import RUN_FILES, manifest, result_dir
from clip4vla.config.plan import Plan

STAGES = ("pretrain", "substitute", "finetune", "evaluate")


def is_done(plan: Plan, key: str) -> bool:
    """Whether a run has left all of its outputs."""
    files = RUN_FILES[plan.runs[key].stage]
    return all(Path(result_dir(key), name).is_file() for name in files)


def print_plan(plan: Plan) -> None:
    """Print datasets with their declared sizes, and every run with its state and its first row."""
    console = Console(highlight=False, soft_wrap=True)
    datasets = Table("dataset version", "clips declared", "shards", "state", title="Data")
    for version, cache_id in sorted(plan.caches):
        name, dataset = plan.dataset_of(version)
        declared = ", ".join(f"{split} {n.clips:,}" for split, n in dataset.expected.items())
        done = Path(manifest(version, cache_id)).is_file()
        shards = str(dataset.shards)
        datasets.add_row(version, declared or "not declared", shards, "frozen" if done else "to do")
    console.print(datasets)
    runs = Table("run key", "stage", "state", "first row that needs it", title="Runs")
    names = plan.names()
    for stage in STAGES:
        for key in plan.stage(stage):
            runs.add_row(key, stage, "done" if is_done(plan, key) else "to do", names[key])
    console.print(runs)
    for (table, row, dataset), reason in plan.without_data.items():
        console.print(f"{table}/{row}/{dataset}: not run ({reason})")
    todo = [key for key in plan.runs if not is_done(plan, key)]
    count = ", ".join(
        f"{sum(plan.runs[key].stage == stage for key in todo)} {stage}" for stage in STAGES
    )
    console.print(f"{len(plan.runs)} runs, {len(todo)} to do: {count}")

"""Paths of all files of the workflow, relative to the working directory."""

import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clip4vla.config.plan import Plan

TABLE_FILES = (
    "rows.json",
    "tidy.csv",
    *(f"table.{suffix}" for suffix in ("md", "html", "tex", "csv")),
    *(f"bars.{suffix}" for suffix in ("png", "svg")),
)


def data_dir(version: str) -> str:
    """Return the folder of a dataset version."""
    return f"data/{version}"


def shard_dir(version: str, shard: int | str) -> str:
    """Return the folder of one shard, with the results of fetching and probing."""
    return f"data/{version}/shards/{shard}"


def cache_dir(version: str, cache_id: str) -> str:
    """Return the folder of a cache: shards of frames and log-mel, and the frozen manifest."""
    return f"data/{version}/cache-{cache_id}"


def media_dir(version: str, shard: int) -> str:
    """Return the state folder with the fetched files of one shard and their download journal."""
    return f"{shard_dir(version, shard)}/media"


def manifest(version: str, cache_id: str) -> str:
    """Return the manifest, the frozen dataset version that runs read and tables cite."""
    return f"{cache_dir(version, cache_id)}/manifest.json"


RUN_KEY = re.compile(r"[0-9a-f]{12}")
RESULTS = Path("results")
ROWS_DIR = "results/rows"
NETWORK_DIR = "network"  # state that all jobs share about each server


def result_dir(run_key: str) -> str:
    """Return the folder of a run's declared outputs."""
    return f"results/runs/{run_key}"


def state_dir(run_key: str) -> str:
    """Return the folder of a run's resumable state, undeclared so that Snakemake keeps it."""
    return f"runs/{run_key}"


RUN_FILES = {  # by stage, in the order of their runs
    "pretrain": ("model.safetensors", "train.json", "metrics.jsonl", "config.json", "record.json"),
    "substitute": (
        "substitution.tsv",
        "substitute.json",
        "donors.html",
        "config.json",
        "record.json",
    ),
    "finetune": ("model.safetensors", "train.json", "metrics.jsonl", "config.json", "record.json"),
    "evaluate": (
        "metrics.json",
        "predictions.parquet",
        "examples.html",
        "config.json",
        "record.json",
    ),
}


def is_done(stage: str, key: str) -> bool:
    """Return whether all outputs of a run exist."""
    return all(Path(result_dir(key), name).is_file() for name in RUN_FILES[stage])


def command_for(target: str | Path) -> str:
    """Return the command with which a user makes a file or target.

    It has `...` for their profile and config, without which Snakemake would not start, or would
    make something else.
    """
    return f"`snakemake ... {target}` (`...`: the options that the workflow is run with)"


def remake(path: str | Path) -> str:
    """Return how a user makes a file of the workflow that is missing or damaged."""
    remove = "delete it and " if Path(path).is_file() else ""
    return f"{remove}run {command_for(path)}"


def data_outputs(plan: "Plan") -> list[str]:
    """Return all outputs of the data rules."""
    files = []
    for version in sorted(plan.versions):
        files += [f"{data_dir(version)}/{name}" for name in DATA_FILES]
        _, dataset = plan.dataset_of(version)
        for shard in range(dataset.shards):
            files += [f"{shard_dir(version, shard)}/{name}.parquet" for name in ("fetch", "probe")]
    for version in sorted(plan.listed.keys() - plan.versions.keys()):
        files += [f"{data_dir(version)}/{name}" for name in LISTS]
    for version, cache_id in sorted(plan.caches):
        _, dataset = plan.dataset_of(version)
        folder = cache_dir(version, cache_id)
        files += [f"{folder}/{name}" for name in CACHE_FILES]
        files += [f"{folder}/shards/{shard}.parquet" for shard in range(dataset.shards)]
    return files


LISTS = ("plan.parquet", "splits.parquet")
DATA_FILES = (*LISTS, "ledger.parquet", "coverage.csv", "missing.tsv")
CACHE_FILES = ("manifest.json", "clips.parquet", "splits.parquet", "record.json")


def pretrained(plan: "Plan") -> list[str]:
    """Return the weights of every pre-training run."""
    return [f"{result_dir(key)}/model.safetensors" for key in plan.stage("pretrain")]


def run_outputs(plan: "Plan") -> list[str]:
    """Return the outputs of every run, including its resolved config."""
    return [
        f"{result_dir(key)}/{name}"
        for key, run in sorted(plan.runs.items())
        for name in RUN_FILES[run.stage]
    ]


def records(plan: "Plan") -> list[str]:
    """Return the records for MLflow: of every cache and run, and of the tables."""
    return [
        *(
            f"{cache_dir(version, cache_id)}/record.json"
            for version, cache_id in sorted(plan.caches)
        ),
        *(f"{result_dir(key)}/record.json" for key in sorted(plan.runs)),
        "results/record.json",
    ]


def scores(plan: "Plan", table: str | None = None, row: str | None = None) -> list[str]:
    """Return the metrics files behind all tables, one table or one row of it."""
    keys = {
        cell.run_key
        for cell in plan.cells
        if table in (None, cell.table) and row in (None, cell.row)
    }
    return [f"{result_dir(key)}/metrics.json" for key in sorted(keys)]


def table_files(table: str) -> list[str]:
    """Return all files of one table."""
    return [f"results/tables/{table}/{name}" for name in TABLE_FILES]


def trained_stages(plan: "Plan") -> list[str]:
    """Return the stages of the plan that have a training curve."""
    return [stage for stage in ("pretrain", "finetune") if plan.stage(stage)]


def swept(plan: "Plan") -> list[str]:
    """Return tables whose rows are points of a line; each has a figure of its name."""
    return [name for name, table in plan.tables.items() if table.sweep]


def figures(plan: "Plan", kind: str) -> list[str]:
    """Return the figures over all tables; kind: png or svg."""
    names = ["difference", "coverage", "cost", *swept(plan)]
    names += [f"curves-{stage}" for stage in trained_stages(plan)]
    return [f"results/figures/{name}.{kind}" for name in names]


def table_outputs(plan: "Plan") -> list[str]:
    """Return the files of tables and figures, and the page."""
    return [
        *(name for table in plan.tables for name in table_files(table)),
        *figures(plan, "png"),
        *figures(plan, "svg"),
        "results/tidy.csv",
        "results/numbers.tex",
        "results/index.html",
    ]


def all_outputs(plan: "Plan") -> list[str]:
    """Return all outputs of `all`, each by name, so that a deleted file is always rebuilt."""
    return [
        *data_outputs(plan),
        *run_outputs(plan),
        *table_outputs(plan),
        *records(plan),
        "results/report.zip",
        *([] if plan.config.tracking.sink == "off" else ["mlflow/synced.json"]),
    ]


OUTPUTS = (  # patterns of the rules' outputs
    *(f"data/*/{name}" for name in DATA_FILES),
    *("data/*/shards/*/*.parquet", "data/*/cache-*/*", "data/*/cache-*/shards/*"),
    *("results/runs/*/*", "results/tables/*/*", "results/figures/*", "results/rows/*/*"),
    *(f"results/{name}" for name in ("index.html", "tidy.csv", "numbers.tex")),
    *("results/record.json", "results/report.zip", "mlflow/synced.json"),
)


def is_output(path: PurePath) -> bool:
    """Return whether a path, relative to the working directory, is that of a rule's output."""
    return any(len(path.parts) == one.count("/") + 1 and path.match(one) for one in OUTPUTS)

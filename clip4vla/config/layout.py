"""Where every file of the workflow is, relative to the working directory."""

from pathlib import Path

from clip4vla.config.plan import Plan

TABLE_FILES = (
    "rows.json",
    "tidy.csv",
    *(f"table.{suffix}" for suffix in ("md", "html", "tex", "csv")),
    *(f"bars.{suffix}" for suffix in ("png", "svg")),
)


def data_dir(version: str) -> str:
    """Folder of a dataset version."""
    return f"data/{version}"


def shard_dir(version: str, shard: int | str) -> str:
    """Folder of one shard: what was fetched and probed."""
    return f"data/{version}/shards/{shard}"


def cache_dir(version: str, cache_id: str) -> str:
    """Folder of a cache: shards of frames and log-mel, and the frozen manifest."""
    return f"data/{version}/cache-{cache_id}"


def media_dir(version: str, shard: int) -> str:
    """State: the fetched files of one shard, and the journal of their downloads."""
    return f"{shard_dir(version, shard)}/media"


def manifest(version: str, cache_id: str) -> str:
    """The frozen dataset version that runs read and tables cite."""
    return f"{cache_dir(version, cache_id)}/manifest.json"


ROWS_DIR = "results/rows"
NETWORK_DIR = "network"  # state: what all jobs know of each server


def result_dir(run_key: str) -> str:
    """Declared outputs of a run."""
    return f"results/runs/{run_key}"


def state_dir(run_key: str) -> str:
    """Resumable state of a run: undeclared, so that Snakemake never deletes it."""
    return f"runs/{run_key}"


RUN_FILES = {
    "pretrain": ("model.safetensors", "train.json", "metrics.jsonl", "config.json", "record.json"),
    "finetune": ("model.safetensors", "train.json", "metrics.jsonl", "config.json", "record.json"),
    "substitute": (
        "substitution.tsv",
        "substitute.json",
        "donors.html",
        "config.json",
        "record.json",
    ),
    "evaluate": (
        "metrics.json",
        "predictions.parquet",
        "examples.html",
        "config.json",
        "record.json",
    ),
}


def command_for(target: str | Path) -> str:
    """What a person types so that Snakemake makes a file or a target.

    Profile and config are theirs: without them Snakemake would not start, or make something else.
    """
    return f"`snakemake ... {target}` (`...`: the options that the workflow is run with)"


def data_outputs(plan: Plan) -> list[str]:
    """Everything the data rules leave for a reader."""
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


def pretrained(plan: Plan) -> list[str]:
    """The weights of every pre-training run."""
    return [f"{result_dir(key)}/model.safetensors" for key in plan.stage("pretrain")]


def run_outputs(plan: Plan) -> list[str]:
    """Outputs of every run, its resolved config among them."""
    return [
        f"{result_dir(key)}/{name}"
        for key, run in sorted(plan.runs.items())
        for name in RUN_FILES[run.stage]
    ]


def records(plan: Plan) -> list[str]:
    """What MLflow is told: one record per dataset version, run and table building."""
    return [
        *(
            f"{cache_dir(version, cache_id)}/record.json"
            for version, cache_id in sorted(plan.caches)
        ),
        *(f"{result_dir(key)}/record.json" for key in sorted(plan.runs)),
        "results/record.json",
    ]


def scores(plan: Plan, table: str | None = None, row: str | None = None) -> list[str]:
    """Metrics behind all tables, one table or one row of it."""
    keys = {
        cell.run_key
        for cell in plan.cells
        if table in (None, cell.table) and row in (None, cell.row)
    }
    return [f"{result_dir(key)}/metrics.json" for key in sorted(keys)]


def table_files(table: str) -> list[str]:
    """All files of one table."""
    return [f"results/tables/{table}/{name}" for name in TABLE_FILES]


def trained_stages(plan: Plan) -> list[str]:
    """Stages of the plan that have a training curve."""
    return [stage for stage in ("pretrain", "finetune") if plan.stage(stage)]


def swept(plan: Plan) -> list[str]:
    """Tables whose rows are points of a line: each has a figure of its name."""
    return [name for name, table in plan.tables.items() if table.sweep]


def figures(plan: Plan, kind: str) -> list[str]:
    """Figures over all tables; kind is png or svg."""
    names = ["difference", "coverage", "cost", *swept(plan)]
    names += [f"curves-{stage}" for stage in trained_stages(plan)]
    return [f"results/figures/{name}.{kind}" for name in names]


def table_outputs(plan: Plan) -> list[str]:
    """Tables, figures and the page."""
    return [
        *(name for table in plan.tables for name in table_files(table)),
        *figures(plan, "png"),
        *figures(plan, "svg"),
        "results/tidy.csv",
        "results/numbers.tex",
        "results/index.html",
    ]


def all_outputs(plan: Plan) -> list[str]:
    """Everything `all` asks for, by name, so that a deleted file is always rebuilt."""
    return [
        *data_outputs(plan),
        *run_outputs(plan),
        *table_outputs(plan),
        *records(plan),
        "results/report.zip",
        *([] if plan.config.tracking.sink == "off" else ["mlflow/synced.json"]),
    ]

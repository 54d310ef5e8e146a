"""Does the model learn what the paper says it learns? On the synthetic world, with spread.

    python benchmarks/learning/study.py                                  # all tables, three seeds
    python benchmarks/learning/study.py --only world_modalities --seeds 0

The project's own stages, in build/learning: the world's datasets are frozen, two small CLIPs are
trained on its pictures, then every run behind the tables in experiments/. A seed is one of
pre-training and of fine-tuning; CLIP is the same for all, as for everyone who starts from CLIP.
What is done is not done again: stop it at any time and call it again.
"""

import os

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))  # read when the libraries are first imported

import argparse  # noqa: E402
import functools  # noqa: E402
import multiprocessing  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from pathlib import Path  # noqa: E402

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(REPO)]

from clip4vla.common.errors import UserError, describe_os_error  # noqa: E402
from clip4vla.common.files import read_json, write_text  # noqa: E402
from clip4vla.common.hardware import INLINE  # noqa: E402
from clip4vla.config import layout  # noqa: E402
from clip4vla.config.plan import Cell, Plan  # noqa: E402
from clip4vla.config.planner import make_plan  # noqa: E402
from clip4vla.stages import runs  # noqa: E402
from learning.captions import told_apart  # noqa: E402
from learning.clip_alone import write_clip  # noqa: E402
from learning.frozen import freeze_world  # noqa: E402
from learning.world import ceilings, clips  # noqa: E402

TABLES = (
    "world_modalities",
    "world_pretraining",
    "world_initial",
    "world_type_token",
    "world_coavt",
    "world_systems",
)
CLIPS = {"world": "pictures", "album": "album"}  # name among the weights -> what it is trained on
STAGES = ("pretrain", "finetune", "evaluate")


def main() -> int:
    """Run the study; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPO / "build" / "learning", help="where to")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", default=TABLES, choices=TABLES, help="tables")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the pool ends with its parent
    started, tables = time.monotonic(), tuple(options.only)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        os.chdir(options.out)
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            plans = {seed: plan_of(seed, tables) for seed in options.seeds}
            for seed, plan in plans.items():
                known = {cell.seed for cell in plan.cells} - {None}
                if known and seed not in known:
                    raise UserError(f"--seeds {seed}: the tables have seeds {sorted(known)}")
            every = [run for plan in plans.values() for run in plan.runs.values()]
            train_clips(pool, {run.model.weights for run in every})
            run_all(pool, plans)
    except UserError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"study: {describe_os_error(error)}", file=sys.stderr)
        return 2
    text = "\n\n".join(table_of(name, plans) for name in tables)
    write_text("tables.md", text + "\n")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall, cpu = time.monotonic() - started, used.ru_utime + used.ru_stime
    print(f"{text}\n\n{wall:.0f} s, {cpu:.0f} s of CPU")
    return 0


@functools.cache
def plan_of(seed: int, tables: tuple[str, ...]) -> Plan:
    """The plan of some tables in which pre-training has this seed."""
    values = {f"weights.{name}.path": str(Path(f"{name}.safetensors").resolve()) for name in CLIPS}
    values["targets"] = list(tables)
    if tables != ("world_clip",):
        values["recipe.pretrain.seed"] = seed
    return make_plan([HERE / "config.yaml"], values)


def cells_of(plan: Plan, seed: int) -> list[Cell]:
    """The cells of this seed of fine-tuning, and those without: nothing is fine-tuned there."""
    return [cell for cell in plan.cells if cell.seed in (None, seed)]


def train_clips(pool, wanted: set[str | None]) -> None:
    """The CLIPs of the world: each a run of the project, of which text and vision are kept.

    <name>.md beside <name>.safetensors says how far it tells captions apart.
    """
    names = {CLIPS[name]: Path(f"{name}.safetensors") for name in CLIPS if name in wanted}
    if all(path.is_file() for path in names.values()):
        return
    plan = plan_of(0, ("world_clip",))
    cells = {cell.run_key: names[cell.dataset] for cell in plan.cells if cell.dataset in names}
    run_all(pool, {0: plan}, set(cells))
    for evaluation, path in cells.items():
        (run_key,) = plan.parents(evaluation)
        model = Path(layout.result_dir(run_key), "model.safetensors")
        write_text(path.with_suffix(".md"), told_apart(model) + "\n")
        write_clip(model, path)


def run_all(pool, plans: dict[int, Plan], only: set[str] | None = None) -> None:
    """Freeze the datasets, then every run of the plans' cells of their seeds, stage by stage.

    only: the keys of the cells' runs, where not all.
    """
    caches = {pair: cache for plan in plans.values() for pair, cache in plan.caches.items()}
    for (version, cache_id), cache in sorted(caches.items()):
        # Not in the pool, whose workers may have no child that decodes.
        freeze_world(version, cache_id, cache)
    wanted = {}
    for seed, plan in plans.items():
        keys = [cell.run_key for cell in cells_of(plan, seed)]
        keys = [key for key in keys if only is None or key in only]
        while keys:
            wanted.setdefault(key := keys.pop(), (seed, tuple(plan.tables)))
            keys += plan.parents(key)
    for stage in STAGES:
        todo = [
            (key, *given)
            for key, given in sorted(wanted.items())
            if plan_of(*given).runs[key].stage == stage and not is_done(key)
        ]
        pool.starmap(run_one, todo, chunksize=1)


def is_done(key: str) -> bool:
    """Whether a run is finished: its record is written last."""
    return Path(layout.result_dir(key), "record.json").is_file()


def run_one(key: str, seed: int, tables: tuple[str, ...]) -> None:
    """What `clip4vla train` and `clip4vla evaluate` do, in this process."""
    plan, began = plan_of(seed, tables), time.process_time()
    stage = plan.runs[key].stage
    if stage == "evaluate":
        runs.evaluate(plan, key, INLINE)
    else:
        runs.train(plan, key, INLINE)
    spent = time.process_time() - began
    print(f"{stage:8} {key} {plan.names()[key]} (seed {seed}): {spent:.0f} s of CPU", flush=True)


def table_of(name: str, plans: dict[int, Plan]) -> str:
    """A table in Markdown: mean and standard deviation over seeds; chance and ceilings below."""
    plan = next(iter(plans.values()))
    table, found, ranked = plan.tables[name], defaultdict(list), {}
    for seed, own in plans.items():
        for cell in cells_of(own, seed):
            if cell.table == name:
                metrics = read_json(layout.result_dir(cell.run_key) + "/metrics.json")
                gallery = metrics["galleries"][table.gallery]
                found[cell.row, cell.dataset].append(gallery["metrics"])
                ranked[cell.dataset] = gallery["n_gallery"], metrics["split"]
    heads = [f"{column.dataset} {column.label}" for column in table.columns]
    lines = [f"### {table.title}", "", table.caption.strip(), ""]
    lines += ["| row | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for row in table.rows:
        values = [
            spread([of(metrics, column.metric) for metrics in found[row.row, column.dataset]])
            for column in table.columns
        ]
        lines.append(f"| {row.label} | " + " | ".join(values) + " |")
    lines += ["", f"Seeds {', '.join(map(str, plans))}: mean ± standard deviation."]
    for dataset, (n, split) in ranked.items():
        test = [made for made in clips(dataset) if split in made.captions and not made.silent]
        top = ", ".join(f"{name} {value:.1f}" for name, value in ceilings(test, split).items())
        lines.append(f"{dataset}, split {split}: {n} clips; R@1 at most: {top}.")
    return "\n".join(lines)


def of(metrics: dict[str, float], name: str) -> float:
    """A column's metric; of a row without vision t2a_R1 where the column says t2v_R1."""
    return metrics[name] if name in metrics else metrics[name.replace("t2v", "t2a")]


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; the value alone where there is one."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    sys.exit(main())

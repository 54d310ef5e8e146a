# The plan of the experiment and the input functions of the rules, which hold no logic themselves.
import atexit
import contextlib
import io
import os
import re
import sys
import time
from pathlib import Path

from clip4vla.config import layout
from clip4vla.config.part import part_of
from clip4vla.config.recorded import record_config
from clip4vla.config.run import sources_of
from clip4vla.config.targets import check_names
from clip4vla.datasets import official_clips
from clip4vla.common.errors import UserError
from clip4vla.common.files import canonical_json, sha256_of
from clip4vla.stages.planning import checked_plan
from snakemake.cli import parse_args
from snakemake.settings.enums import Quietness

# The config is read by our own loader, not by `configfile:`, so that a mistake is one line with file
# and line. As a module, it is `config.yaml` beside the Snakefile that uses it; or, if that passes
# `config:`, the file that its key `configfile` names, below its other keys (docs/install.md).
IS_MODULE = not workflow.modifier.is_main_snakefile()
if IS_MODULE and config:
    if not isinstance(config.get("configfile"), str):
        raise WorkflowError(
            "config: of the module: no `configfile`. Fix: name the file with its base config"
        )
    CONFIG_FILES = [Path(config["configfile"])]
    CONFIG_VALUES = {key: config[key] for key in config if key != "configfile"}
else:
    base = Path(workflow.basedir)
    CONFIG_FILES = [(base if IS_MODULE else base.parent) / "config.yaml"]
    CONFIG_FILES += map(Path, workflow.overwrite_configfiles)
    CONFIG_VALUES = dict(workflow.config_settings.config or {})
for config_file in CONFIG_FILES:
    # A colon separates the paths of CLIP4VLA_CONFIG; braces are Snakemake's wildcards.
    if odd := set(":{}") & set(str(config_file.resolve())):
        raise WorkflowError(
            f"{config_file.resolve()}: {odd.pop()} in the path of a config file. Fix: rename it"
        )
if workflow.modifier.path_modifier.replace_prefix("data/") != "data/":
    raise WorkflowError(
        "prefix of the module: commands write below the working directory. Fix: remove it"
    )
try:
    PLAN = checked_plan(CONFIG_FILES, CONFIG_VALUES)
except UserError as error:
    raise WorkflowError(str(error)) from None

FOLDER = Path.cwd()  # of the outputs: at its end, Snakemake is back where it was called

# Every command sees the same config, on this machine and on others, without naming it:
# a path or a port in a shell line would make Snakemake rerun what does not depend on it.
os.environ.update(
    CLIP4VLA_CONFIG=":".join(str(path.resolve()) for path in CONFIG_FILES),
    CLIP4VLA_SET=canonical_json(CONFIG_VALUES),
)


def one_of(names):
    """Wildcard constraint: only names that this plan knows, so that nothing else is a target."""
    return "|".join(map(re.escape, sorted(names))) or "none"


wildcard_constraints:
    version=one_of(PLAN.versions | PLAN.listed),
    cache_id=one_of({cache_id for _, cache_id in PLAN.caches}),
    shard=r"\d+",
    run_key=one_of(PLAN.runs),
    table=one_of(PLAN.tables),


def keys_of(*stages):
    """Wildcard constraint: the run keys of these stages."""
    return one_of(key for stage in stages for key in PLAN.stage(stage))


def shards_of(wildcards):
    """Shard numbers of a dataset version, from the config."""
    _, dataset = PLAN.dataset_of(wildcards.version)
    return range(dataset.shards)


def per_shard(pattern):
    """Input function: a file of every shard."""
    return lambda wildcards: [
        pattern.format(shard=shard, **wildcards) for shard in shards_of(wildcards)
    ]


def manifests_of(wildcards):
    """Frozen data of a run; `ancient`, since its name already stands for its content."""
    pairs = {(s.dataset, s.cache_id) for s in sources_of(PLAN.run(wildcards.run_key))}
    return [ancient(layout.manifest(*pair)) for pair in sorted(pairs)]


def lists_of(wildcards):
    """Lists that tell which clips of pre-training are of held-out videos."""
    run = PLAN.run(wildcards.run_key)
    versions = {held.dataset for held in run.held_out}
    versions |= {source.dataset for source in run.sources if run.held_out}
    return [
        ancient(f"{layout.data_dir(version)}/{name}")
        for version in sorted(versions)
        for name in layout.LISTS
    ]


def videos_of(wildcards):
    """The list that tells which clips of a gallery of sounds or pictures are of one video."""
    run = PLAN.run(wildcards.run_key)
    path = f"{layout.data_dir(run.test.dataset)}/plan.parquet"
    return [] if run.query == "text" else [ancient(path)]


def expected_of(wildcards):
    """Official number of clips of the split that a run is scored on: printed with its result."""
    test = PLAN.run(wildcards.run_key).test
    _, dataset = PLAN.dataset_of(test.dataset)
    return official_clips(dataset, test.split)


def parents_of(wildcards):
    """The runs that a run starts from or takes donors from."""
    names = {"substitute": "substitution.tsv"}
    return [
        f"{layout.result_dir(key)}/{names.get(PLAN.runs[key].stage, 'model.safetensors')}"
        for key in PLAN.parents(wildcards.run_key)
    ]


def run_labels(wildcards):
    """What a reader of the report knows a run by: the first row that needs it."""
    return {"run": PLAN.titles[wildcards.run_key], "key": wildcards.run_key}


def rows_of(wildcards):
    """What messages call a run. A resource, since a change of `params` would run the job again."""
    return PLAN.titles[wildcards.run_key]


def metrics_of(wildcards):
    """Metrics behind one table, or one row of it."""
    return layout.scores(PLAN, wildcards.table, wildcards.get("row"))


def sheet_digest(wildcards):
    """Changes when the table's file, or the runs behind it, change."""
    return sha256_of(canonical_json(PLAN.sheet(wildcards.table)))[:12]


def curves():
    """Training curves of all runs."""
    keys = [*PLAN.stage("pretrain"), *PLAN.stage("finetune")]
    return [f"{layout.result_dir(key)}/metrics.jsonl" for key in keys]


def coverages():
    """Coverage tables of all dataset versions."""
    return [
        f"{layout.data_dir(version)}/coverage.csv" for version in sorted(PLAN.versions)
    ]


def stop_for_unknown_names():
    """Refuse unknown targets and rules, with the nearest names, before the graph is built."""
    called = Path(sys.argv[0])
    if not workflow.is_main_process or "snakemake" not in (
        called.name,
        called.parent.name,
    ):
        return
    try:
        with contextlib.redirect_stderr(
            io.StringIO()
        ):  # "Using profile ..." has been said
            _, asked = parse_args(
                sys.argv[1:]
            )  # Snakemake tells its workflow later than now
    except SystemExit:  # `--directory` has moved us away from a relative `--profile`
        return
    makers = list(workflow.rules)
    targets = (asked.targets, asked.until, asked.omit_from, asked.forcerun)
    rules = (asked.allowed_rules, asked.set_threads, asked.set_resources)
    try:
        check_names(
            plan=PLAN,
            asked={name for names in targets for name in names or ()},
            rules={name for names in rules for name in names or ()},
            known=[maker.name for maker in makers],
            is_made=lambda file: any(maker.is_producer(file) for maker in makers),
        )
    except UserError as error:
        raise WorkflowError(str(error)) from None


def planned_part():
    """The part of the plan that the jobs of this call are about: other rows stop none of them."""
    asked = [job.wildcards for job in workflow.dag.needrun_jobs()]
    versions = {names.get("version") for names in asked}
    keys = {names.get("run_key") for names in asked}
    return part_of(PLAN, keys=keys, versions=versions)


def stop_when_files_are_missing():
    """Before the first job of a real run: one line for each file that it needs and lacks."""
    from clip4vla.stages.inputs import input_problems

    if problems := input_problems(planned_part()):
        raise WorkflowError(str(UserError(*problems)))


def running_jobs():
    """The jobs that run now, each with its message and its logs."""
    from clip4vla.stages.running import Job

    groups = list(workflow.scheduler.running)
    for job in (job for group in groups for job in getattr(group, "jobs", [group])):
        logs = tuple(map(str, job.log))
        yield Job(job.message or job.name, logs, job.wildcards.get("run_key"))


def report_progress():
    """Log once a minute how far the long jobs are, as their own logs tell it."""
    from clip4vla.stages.running import watch

    watch(running_jobs, lambda line: logger.info(f"{time.strftime('%H:%M')} {line}"))


def before_jobs():
    """What precedes the first job of a real run."""
    stop_when_files_are_missing()
    record_config(CONFIG_FILES, CONFIG_VALUES, Path())
    report_progress()


def end_of_dry_run():
    """Say what would be done and why. Snakemake has no hook for the end of a dry run."""
    if workflow.scheduler is None or not workflow.dryrun:
        return
    from clip4vla.stages.dry_run import Job, plan_command, print_summary

    jobs = [
        Job(
            job.rule.name,
            run_key=job.wildcards.get("run_key"),
            reasons=tuple(workflow.dag.reason(job).get_names()),
        )
        for job in workflow.dag.needrun_jobs(exclude_finished=False)
        if job.output
    ]
    asked = workflow.dag_settings.targets
    above = CONFIG_FILES if IS_MODULE and config else CONFIG_FILES[1:]
    command = plan_command(
        PLAN, asked, files=above, values=CONFIG_VALUES, folder=FOLDER
    )
    if jobs:
        order = [rule.name for rule in workflow.rules]
        listed = Quietness.RULES not in (workflow.output_settings.quiet or ())
        print_summary(PLAN, jobs, order=order, command=command, listed=listed)


atexit.register(end_of_dry_run)


onstart:
    before_jobs()

"""Print, as JSON, the sbatch line that Snakemake's Slurm executor makes for one job of every rule.

Takes the arguments of `snakemake`; adds a dry run, in which the executor's own functions make the
lines. No Slurm is asked: the account counts as valid.
"""

import json
import os
import sys

import snakemake_executor_plugin_slurm as plugin
from snakemake.cli import args_to_api, parse_args
from snakemake.executors import dryrun
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

lines: dict[str, str] = {}


def line_of(job, executor: plugin.Executor, settings: plugin.ExecutorSettings) -> str:
    plugin.validate_slurm_extra(job)
    options = {
        "run_uuid": "run",
        "slurm_logfile": "job.log",
        "comment_str": f"rule_{job.name}",
        "account": next(executor.get_account_arg(job)),
        "partition": executor.get_partition_arg(job),
        "workdir": None,
    }
    return plugin.get_submit_command(job, options, settings) + plugin.set_gres_string(job)


parser, arguments = parse_args([*sys.argv[1:], "--dry-run", "--quiet", "all", "--cores", "64"])
assert arguments.executor == "slurm", "the profile names another executor"
settings = ExecutorPluginRegistry().get_plugin("slurm").get_settings(arguments)
plugin.validate_account = lambda account, logger: account
executor = object.__new__(plugin.Executor)
executor.logger, executor._partitions = dryrun.logger, None
if settings.partition_config:
    executor._partitions = plugin.read_partition_file(settings.partition_config)
run_job = dryrun.Executor.run_job


def record(self, job):
    if job.name not in job.rule.workflow._localrules and job.name not in lines:
        lines[job.name] = line_of(job, executor, settings)
    run_job(self, job)


dryrun.Executor.run_job = record
arguments.executor = "dryrun"
if not args_to_api(arguments, parser):
    sys.exit(1)
print(json.dumps(lines), flush=True)
os._exit(0)  # without the summary that ends a dry run

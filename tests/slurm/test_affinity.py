"""Every rank may use the CPUs that were asked for: on a Slurm that binds tasks to cores, as most do."""

import json
import os
import re
import shlex
import sys

import pytest
from running import running_cluster
from small import REPO

from clip4vla.launch import slurm
from clip4vla.launch.rank import Rank
from clip4vla.launch.request import Request

pytestmark = pytest.mark.slurm
CPUS = 2
RULE = """
rule bound:
    output: "bound.json"
    threads: {threads}
    shell: "{python} {script} > {{output}}"
"""


class Bound(Rank):
    """A rank that writes down its CPUs and environment in place of training."""

    def __call__(self) -> None:
        asked = {name: os.environ.get(name) for name in ("SLURM_CPUS_PER_TASK", "SLURM_PROCID")}
        told = {"cpus": sorted(os.sched_getaffinity(0)), **asked}
        with open(f"{self.arguments[0]}/{asked['SLURM_PROCID']}.json", "w") as stream:
            json.dump(told, stream)


@pytest.fixture(scope="module")
def binding():
    """A cluster whose nodes have two CPUs, to which it binds tasks."""
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs the first two CPUs of the machine")
    settings = {"SLURM_TEST_BIND": "yes", "SLURM_TEST_CPUS": str(CPUS), "SLURM_TEST_GPUS": "1"}
    yield from running_cluster(settings)


def test_a_rank_of_a_pretraining_has_all_its_cpus(binding, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "Rank", Bound)
    monkeypatch.setattr(slurm, "POLL_SECONDS", (0.5, 1.0))
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)
    request = Request(
        nodes=2, gpus_per_node=1, gpu_model="v100", threads=CPUS, mem_mb=500, minutes=5
    )
    job = slurm._submit("clip4vla-bound", [str(tmp_path)], request, tmp_path / "slurm", {})
    end = slurm._wait(job)
    logs = [path.read_text() for path in sorted((tmp_path / "slurm" / job).glob("*.err"))]
    assert end.name == "COMPLETED", logs
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [rank["cpus"] for rank in ranks] == [list(range(CPUS))] * 2
    assert [rank["SLURM_CPUS_PER_TASK"] for rank in ranks] == [str(CPUS)] * 2


def test_a_job_of_snakemakes_executor_has_all_its_cpus(binding, tmp_path):
    script = tmp_path / "bound.py"
    script.write_text("import json, os; print(json.dumps(sorted(os.sched_getaffinity(0))))\n")
    python = shlex.quote(sys.executable)
    (tmp_path / "Snakefile").write_text(RULE.format(threads=CPUS, python=python, script=script))
    options = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5")
    memory = ("--default-resources", "slurm_account=v100", "mem_mb=1000", "runtime=5")
    binding.slurm(
        *(sys.executable, "-m", "snakemake", "--executor", "slurm", "--jobs", "1"),
        *(*options, *memory, "--directory", str(tmp_path), "-s", str(tmp_path / "Snakefile")),
    )
    assert json.loads((tmp_path / "bound.json").read_text()) == list(range(CPUS))


def test_the_batch_script_of_the_docs_gives_every_rank_its_cpus(binding, tmp_path):
    """And without the option on srun's line this Slurm gives one core, or the test shows nothing."""
    page = (REPO / "docs" / "cluster.md").read_text()
    (line,) = re.findall(r"^srun .*$", page, re.M)
    options = line.partition("clip4vla train")[0].replace("srun", "", 1)
    ask = f"{shlex.quote(sys.executable)} -c 'import os; print(len(os.sched_getaffinity(0)))'"
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n"
        f"#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task={CPUS} --mem=500\n"
        f"srun {options} {ask} > documented\n"
        f"srun {ask} > plain\n"
    )
    binding.slurm("sbatch", "--wait", f"--chdir={tmp_path}", "--output=log", str(script))
    assert (tmp_path / "documented").read_text().split() == [str(CPUS)] * 2
    if re.match(r"slurm\S* (22\.05|23\.02)", binding.slurm("sinfo", "--version")):
        assert (tmp_path / "plain").read_text().split() == ["1", "1"]


def test_every_line_of_srun_in_the_docs_names_its_cpus():
    texts = {
        path: path.read_text()
        for folder in ("docs", "profiles", "rules", "workflow", "envs")
        for path in (REPO / folder).rglob("*")
        if path.suffix in {".md", ".smk", ".yaml"} or path.name == "Snakefile"
    }
    lines = re.findall(r"(?:^|`)(srun --.*?)(?:`|$)", "\n".join(texts.values()), re.M)
    assert len(lines) >= 2
    assert [line for line in lines if "--cpus-per-task" not in line] == []

"""The Slurm profile: content, location and refused settings."""

import os
import re
from pathlib import Path

import pytest
import yaml

from clip4vla.common.errors import UserError
from clip4vla.launch import profile
from clip4vla.launch.profile import Cluster, install, render

REPO = Path(__file__).parents[2]
RULES = set(
    re.findall(
        r"^rule (\w+):", "\n".join(p.read_text() for p in (REPO / "rules").glob("*.smk")), re.M
    )
)


def test_the_profile_in_the_repository_is_the_rendered_template():
    assert (REPO / "profiles" / "slurm" / "config.yaml").read_text() == render(Cluster())


@pytest.mark.parametrize(
    "path", sorted((REPO / "profiles").glob("*/config.yaml")), ids=lambda p: p.parent.name
)
def test_every_rule_that_a_profile_names_exists(path):
    content = yaml.safe_load(path.read_text())
    named = set(content.get("set-resources", {})) | set(content.get("set-threads", {}))
    assert named and named <= RULES


def test_no_profile_is_called_default():
    assert not (REPO / "profiles" / "default").exists()


def test_all_settings_are_in_the_profile():
    text = render(
        Cluster(
            account="a1",
            partition="p1",
            qos="q1",
            gpu_model="v100",
            constraint="ib",
            nodes=3,
            gpus_per_node=4,
            threads=6,
            minutes=99,
            mem_mb=5000,
        )
    )
    content = yaml.safe_load(text)
    assert content["default-resources"]["slurm_account"] == "'a1'"
    assert content["default-resources"]["slurm_partition"] == "'p1'"
    assert content["default-resources"]["qos"] == "'q1'"
    pretrain = content["set-resources"]["pretrain_run"]
    assert pretrain == {
        "launcher": "slurm",
        "nodes": 3,
        "gpus_per_node": 4,
        "gpu_model": "'v100'",
        "slurm_partition": "'p1'",
        "slurm_account": "'a1'",
        "qos": "'q1'",
        "constraint": "'ib'",
        "runtime": 99,
        "mem_mb": 5000,
    }
    assert content["set-resources"]["finetune"]["mem_mb"] == 5000  # no more than a node has
    assert content["set-threads"]["pretrain_run"] == 6


def test_jobs_without_gpu_may_have_their_own_partition():
    content = yaml.safe_load(render(Cluster(partition="gpu", cpu_partition="cpu")))
    assert content["default-resources"]["slurm_partition"] == "'cpu'"
    asked = {rule: of.get("slurm_partition") for rule, of in content["set-resources"].items()}
    gpu = dict.fromkeys(("pretrain_run", "substitute", "finetune", "evaluate"), "'gpu'")
    assert asked == gpu | dict.fromkeys(("fetch_shard", "probe_shard", "cache_shard"))


def test_captions_are_scored_with_8_gb_however_small_the_nodes_are():
    for mem_mb in (2000, 64000):
        content = yaml.safe_load(render(Cluster(mem_mb=mem_mb)))
        assert content["set-resources"]["evaluate"]["mem_mb"] >= 8000


def test_settings_left_out_are_left_to_the_cluster():
    content = yaml.safe_load(render(Cluster()))
    assert "slurm_account" not in content["default-resources"]
    assert not {"slurm_partition", "constraint", "gpu_model", "qos"} & set(
        content["set-resources"]["pretrain_run"]
    )


def test_no_gpus_are_requested_from_a_cluster_without_gpus():
    content = yaml.safe_load(render(Cluster(gpus_per_node=0)))
    assert all("gpu" not in asked for asked in content["set-resources"].values())


@pytest.mark.parametrize("value", ["a b", "x\ny: 1", "$(reboot)", "'", "-q"])
def test_a_value_with_invalid_characters_is_refused(value):
    with pytest.raises(UserError, match="--partition"):
        render(Cluster(partition=value))


def test_an_edited_profile_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = install("jobs: 1\n", "slurm", replace=False)
    assert path == tmp_path / "snakemake" / "slurm" / "config.yaml"
    install("jobs: 1\n", "slurm", replace=False)  # the same again is no change
    with pytest.raises(UserError, match=r"--replace overwrites it:\n-jobs: 1\n\+jobs: 2"):
        install("jobs: 2\n", "slurm", replace=False)
    install("jobs: 2\n", "slurm", replace=True)
    assert path.read_text() == "jobs: 2\n"
    assert path.with_name("config.yaml.before").read_text() == "jobs: 1\n"
    install("jobs: 3\n", "slurm", replace=True)
    path.write_bytes(b"jobs: \xff\n")
    with pytest.raises(UserError, match=r"--replace overwrites it:\n-jobs: .\n\+jobs: 4"):
        install("jobs: 4\n", "slurm", replace=False)
    install("jobs: 4\n", "slurm", replace=True)
    kept = [path.with_name(f"config.yaml.before{end}").read_bytes() for end in ("", "-2", "-3")]
    assert kept == [b"jobs: 1\n", b"jobs: 2\n", b"jobs: \xff\n"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-q", "default"])
def test_a_profile_stays_in_its_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(UserError, match="--name"):
        install("jobs: 1\n", name, replace=False)
    assert not any(tmp_path.iterdir())


def test_unknown_partitions_and_accounts_are_named(monkeypatch):
    answers = {"sinfo": ["gpu*", "cpu"], "sacctmgr": ["lab|normal,long", "dept|normal"]}
    monkeypatch.setattr(profile, "_ask", lambda *command: answers[command[0]])
    profile.check(Cluster(partition="gpu,cpu", account="Lab", qos="long"))
    with pytest.raises(
        UserError, match="--partition gup: no such partition. Fix: choose one of cpu, gpu"
    ):
        profile.check(Cluster(partition="gup"))
    with pytest.raises(UserError, match="--account lob: not yours. Fix: choose one of dept, lab"):
        profile.check(Cluster(account="lob"))
    with pytest.raises(
        UserError, match="--cpu-partition cpus: no such partition. Fix: choose one of cpu, gpu"
    ):
        profile.check(Cluster(partition="gpu", cpu_partition="cpus"))
    with pytest.raises(UserError, match="--qos lang: not yours. Fix: choose one of long, normal"):
        profile.check(Cluster(qos="lang"))


def test_a_sentence_in_place_of_partitions_is_ignored(tmp_path, monkeypatch):
    for command in ("sinfo", "sacctmgr"):
        (tmp_path / command).write_text("#!/bin/sh\necho Unable to contact the controller\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    profile.check(Cluster(partition="gpu", account="lab", qos="long"))

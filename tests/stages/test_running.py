"""The progress of running jobs, from their logs into Snakemake's."""

import os
import time
from pathlib import Path

from clip4vla.stages.running import MOST, Job, progress_lines, watch

LOG = """$ clip4vla train 459810c9f189 --threads 4
epoch 1/5 done: 812 samples/s, 3% waiting for data, loss 2.31
epoch 2/5: 12/200, 48 min left, 812 samples/s, 3% waiting for data, loss 2.3
clip4vla: warning: a.mp4: 3/4 of the frames are missing
"""


def test_a_job_is_told_once_for_each_step_it_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "finetune.log"
    job = Job("Fine-tune table5/type_token/msrvtt, seed 1 (459810c9f189)", (str(log),))
    told: dict[str, str] = {}
    assert progress_lines([job], told) == []  # no log yet
    log.write_text("$ clip4vla train\n")
    assert progress_lines([job], told) == []
    log.write_text(LOG)
    assert progress_lines([job], told) == [f"{job.title}: epoch 2/5: 12/200, 48 min left"]
    assert progress_lines([job], told) == []
    log.write_text(LOG + "encode frames: 3/9\n")
    assert progress_lines([job], told) == [f"{job.title}: encode frames: 3/9"]


def test_a_training_in_a_slurm_job_is_told_from_its_own_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("launch.log").write_text("2026-01-01 10:00:00 slurm: job 17: RUNNING node1\n")
    folder = Path("runs/459810c9f189/slurm")
    for job_id, step in (("16", 7), ("17", 9)):
        (folder / job_id).mkdir(parents=True)
        path = folder / job_id / f"{job_id}_0_log.err"
        path.write_text(f"epoch 1/2: {step}/20, 2.0 h left, loss 1\n")
        os.utime(path, (step, step))
    job = Job("Pre-train a", ("launch.log",), "459810c9f189")
    assert progress_lines([job], {}) == ["Pre-train a: epoch 1/2: 9/20, 2.0 h left"]


def test_a_hundred_jobs_do_not_fill_the_log(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("fetch: 3/9\n")
    lines = progress_lines([Job(f"Fetch {n}", (str(log),)) for n in range(MOST + 3)], {})
    assert len(lines) == MOST + 1 and lines[-1] == "(and 3 more jobs)"


def test_the_thread_tells_what_it_finds(tmp_path):
    log, lines = tmp_path / "a.log", []
    log.write_text("fetch: 3/9\n")
    thread = watch(lambda: [Job("Fetch", (str(log),))], lines.append, seconds=0.01)
    deadline = time.monotonic() + 30
    while not lines and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lines == ["Fetch: fetch: 3/9"] and thread.daemon

"""Evaluation on a GPU: the vectors of the CPU within half precision, for every task and policy."""

import pandas as pd
import pytest
import torch
from tiny_world import INPUTS, MODEL, source

from clip4vla.checkpoints.checkpoint import read_checkpoint
from clip4vla.common.files import read_json
from clip4vla.common.hardware import ReadingHardware
from clip4vla.config.run import Evaluate
from clip4vla.evaluation import evaluate as module
from clip4vla.inference.features import embed_clips, embed_texts
from clip4vla.loading.loader import Caches, clip_items, samples_of, split_rows
from clip4vla.results.metrics_file import read_metrics

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


def test_vectors_are_near_those_of_the_cpu(gpu, manifests, trained):
    model, cache = read_checkpoint(trained("retrieval")).model, Caches(manifests)[source("test")]
    items = clip_items(split_rows(cache, source("test")))
    samples = samples_of(cache, items, source("test"), INPUTS, ("vision", "audio"), "none")

    def vectors(device):
        model.to(device)
        clips = embed_clips(model, samples, ("vision", "audio"), device, workers=2)
        return *clips.vectors.values(), embed_texts(model, ["a red thing"], 8, device)

    for found, expected in zip(vectors(gpu), vectors(CPU), strict=True):
        assert found.device == CPU and found.dtype == torch.float32
        assert (found - expected).abs().max() < 0.02


@pytest.mark.parametrize("task", ["retrieval", "captioning", "classification", "tagging"])
def test_evaluation_writes_what_tables_read(gpu, manifests, trained, tmp_path, task):
    given = {"start": None, "task": task, "test": source("test"), "missing_audio": "none"}
    run = Evaluate(**given, model=MODEL, inputs=INPUTS)
    found = {}
    for name, device in (("gpu", gpu), ("cpu", CPU)):
        out = tmp_path / name
        hardware = ReadingHardware(device=str(device), threads=1)
        module.evaluate(run, manifests, trained(task), {}, None, out, "c0ffee", hardware=hardware)
        read_metrics(out / "metrics.json")
        found[name] = read_json(out / "metrics.json"), pd.read_parquet(out / "predictions.parquet")
    (on_gpu, rows), (on_cpu, expected) = found["gpu"], found["cpu"]
    assert on_gpu.keys() == on_cpu.keys() and len(rows) == len(expected)
    if task == "classification":  # colours: nothing near a tie
        assert rows.predicted.equals(expected.predicted)

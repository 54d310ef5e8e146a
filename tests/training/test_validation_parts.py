"""Validation by several ranks: their parts together give what one process gives, to the bit."""

from dataclasses import replace

import pytest
import torch
from tiny_world import MODEL, build_world, finetune

from clip4vla.inference import captioning, features
from clip4vla.loading.loader import Caches
from clip4vla.metrics import captions as caption_metrics
from clip4vla.training.job import External
from clip4vla.training.setup import set_up


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world") / "world")


def job_of(case, manifests):
    model = MODEL.model_copy(update={} if case == "captioning" else {"fusion": case})
    task = "captioning" if case == "captioning" else "retrieval"
    run = finetune(task, model=model, missing_audio="none")
    return set_up(run, External(Caches(manifests), None, {}, None, torch.device("cpu"), 1))


def as_rank(validation, rank, world):
    return replace(validation, clips=replace(validation.clips, part=(rank, world)))


@pytest.mark.parametrize(
    "case", ["global_to_global", "global_to_local", "local_to_local", "captioning"]
)
def test_the_parts_of_all_ranks_give_what_one_gives(manifests, monkeypatch, case):
    for module in (features, captioning):
        monkeypatch.setattr(module, "CLIPS", 1)  # four batches, for three ranks
    monkeypatch.setattr(
        caption_metrics, "score_captions", lambda captions, *_, **__: {"val": captions}
    )
    job = job_of(case, manifests)
    job.task.model.eval()
    validation = job.validation
    alone = validation.part()
    expected, counts, parts = validation.scores(alone), [], []
    for rank in range(3):
        parts.append(as_rank(validation, rank, 3).part())
    counts = [len(part) for part in parts]
    assert counts == [2, 1, 1] and len(alone) == 4
    assert expected and validation.scores([item for part in parts for item in part]) == expected
    assert validation.scores([item for part in reversed(parts) for item in part]) == expected


def test_a_rank_without_a_part_returns_nothing(manifests):
    job = job_of("global_to_global", manifests)  # one batch of four clips
    assert as_rank(job.validation, 1, 2).part() == []

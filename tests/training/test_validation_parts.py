"""Validation by several ranks: their parts together give what one process gives, to the bit."""

from dataclasses import replace

import pytest
import torch
from tiny_world import MODEL, build_world, finetune

from clip4vla.inference import captioning, features, sequences
from clip4vla.loading.loader import Caches
from clip4vla.training import task as task_module
from clip4vla.training.setup import Surroundings, set_up


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world") / "world")


def task_of(case, manifests):
    model = MODEL.model_copy(update={} if case == "captioning" else {"fusion": case})
    task = "captioning" if case == "captioning" else "retrieval"
    run = finetune(task, model=model, missing_audio="none")
    return set_up(run, Surroundings(Caches(manifests), None, {}, None, torch.device("cpu"), 1)).task


@pytest.mark.parametrize(
    "case", ["global_to_global", "global_to_local", "local_to_local", "captioning"]
)
def test_the_parts_of_all_ranks_give_what_one_gives(manifests, monkeypatch, case):
    for module in (features, sequences, captioning):
        monkeypatch.setattr(module, "CLIPS", 1)  # four batches, for three ranks
    monkeypatch.setattr(task_module, "score_captions", lambda captions, *_, **__: {"val": captions})
    task = task_of(case, manifests)
    task.model.eval()
    alone = task.validation_part()
    expected, counts, parts = task.validate(alone), [], []
    for rank in range(3):
        task.validation = replace(task.validation, part=(rank, 3))
        parts.append(task.validation_part())
    counts = [len(part) for part in parts]
    assert counts == [2, 1, 1] and len(alone) == 4
    assert expected and task.validate([item for part in parts for item in part]) == expected
    assert task.validate([item for part in reversed(parts) for item in part]) == expected


def test_a_rank_without_a_part_has_nothing_to_say(manifests):
    task = task_of("global_to_global", manifests)  # one batch of four clips
    task.validation = replace(task.validation, part=(1, 2))
    assert task.validation_part() == []

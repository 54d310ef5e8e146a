"""Gradient caching and accumulation: the gradients of the whole batch, in the memory of a chunk."""

import functools

import pytest
import torch
from gradient_cases import (
    CASES,
    CONTRASTIVE,
    CPU,
    assert_equal,
    chunks_of,
    cut,
    gradients,
    in_double,
    make_batch,
    make_task,
    unscaled,
)

from clip4vla.models.clip4vla import fusion
from clip4vla.models.common.batch_features import joined, numbers_of
from clip4vla.training import gradients as module
from clip4vla.training.gradients import backward


@pytest.fixture(autouse=True)
def double(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.float)  # put back afterwards
    in_double()


@pytest.mark.parametrize("name", CASES)
def test_chunks_have_the_gradients_of_the_whole_batch(name, monkeypatch):
    monkeypatch.setattr(fusion, "PAIRS_AT_ONCE", 6)  # blocks of one text, recomputed
    task, batch = make_task(name), make_batch(5)
    expected = gradients(task, [batch])
    loss, found = gradients(task, chunks_of(batch, 2))  # the last one has a single clip
    assert loss == pytest.approx(expected[0], rel=1e-12)
    assert_equal(found, expected[1], 1e-10)


@pytest.mark.parametrize("name", ["stage 2, every term", "global_to_local", "captions"])
def test_in_single_precision_they_differ_by_rounding(name):
    task, batch = make_task(name, dtype=torch.float32), make_batch(5, torch.float32)
    expected = gradients(task, [batch])
    loss, found = gradients(task, chunks_of(batch, 2))
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert_equal(found, expected[1], 1e-4)


@pytest.mark.parametrize("name", ["global_to_local", "local_to_local", "feat2feat"])
def test_dropout_is_the_same_when_a_chunk_is_encoded_again(name, monkeypatch):
    monkeypatch.setattr(fusion, "PAIRS_AT_ONCE", 6)
    task, chunks = make_task(name, train=True), chunks_of(make_batch(5), 2)
    torch.manual_seed(7)
    loss, _ = task.objective(joined([task.encode(chunk) for chunk in chunks]))
    loss.backward()
    after = torch.rand(3)
    expected = {n: None if p.grad is None else p.grad for n, p in task.model.named_parameters()}
    torch.manual_seed(7)
    value, found = gradients(task, chunks)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    assert_equal(found, expected, 1e-10)
    assert torch.equal(torch.rand(3), after)  # the next step draws anew
    torch.manual_seed(8)
    assert gradients(task, chunks)[0] != pytest.approx(value, rel=1e-6)  # there is dropout


@pytest.mark.parametrize("name", ["stage 2, every term", "captions"])
def test_scaled_losses_give_scaled_gradients(name):
    """As with float16: the scaler divides them again before the update."""
    task, batch = make_task(name), make_batch(5)
    expected = gradients(task, [batch])[1]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    found = gradients(task, chunks_of(batch, 2), scaler.scale)[1]
    found = {n: None if g is None else g / 2.0**16 for n, g in found.items()}
    assert_equal(found, expected, 1e-10)


@pytest.fixture
def in_half(monkeypatch):
    """Begin steps in bfloat16 on the CPU, which stand for those on a GPU."""
    half = lambda device, model: torch.autocast(device.type, torch.bfloat16)  # noqa: E731
    return lambda: monkeypatch.setattr(module, "autocast", half)


@pytest.mark.parametrize("name", ["stage 1", "stage 2, every term", "global_to_local", "captions"])
def test_log_mels_in_float16_are_trained_on_in_half_precision(name, in_half):
    """As the loader gives them; autocast refuses some operators on float16 where it has bfloat16."""
    task, batch = make_task(name, dtype=torch.float32), dict(make_batch(5, torch.float32))
    batch |= {view: batch[view].half() for view in ("audio", "masked_audio")}
    exact = gradients(task, [batch])[1]
    in_half()
    for chunks in ([batch], chunks_of(batch, 2)):
        assert_equal(gradients(task, chunks)[1], exact, 0.2)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # The gradients of an untrained local_to_local are smaller than the rounding of 8 bits.
    [("stage 1", 0.2), ("global_to_local", 0.2), ("local_to_local", torch.inf), ("captions", 0.2)],
)
def test_half_precision_reaches_the_same_parameters(name, tolerance, in_half):
    """Casts of weights made without a graph are not kept."""
    task, batch = make_task(name, dtype=torch.float32), make_batch(5, torch.float32)
    exact = gradients(task, [batch])[1]
    in_half()
    assert_equal(gradients(task, [batch])[1], exact, tolerance)
    assert_equal(gradients(task, chunks_of(batch, 2))[1], exact, tolerance)


class Kept:
    """Bytes of graph: what autograd keeps for the backward pass beside weights, and at most kept."""

    class Held:
        def __init__(self, kept, tensor):
            self.kept, self.tensor = kept, tensor
            storage = tensor.untyped_storage()
            self.size = 0 if storage.data_ptr() in kept.weights else storage.nbytes()
            kept.now += self.size
            kept.most = max(kept.most, kept.now)

        def __del__(self):
            self.kept.now -= self.size

    def __init__(self, model):
        self.now = self.most = 0
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def watching(self):
        hold = functools.partial(self.Held, self)
        return torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held.tensor)


def most_kept(task, chunks):
    kept = Kept(task.model)
    with kept.watching():
        backward(task, chunks, CPU, unscaled)
    assert kept.now == 0
    return kept.most


@pytest.mark.parametrize("name", ["stage 1", "global_to_local", "captions"])
def test_memory_is_that_of_a_chunk(name):
    task, batch = make_task(name), make_batch()
    whole, parts = most_kept(task, [batch]), most_kept(task, chunks_of(batch, 1))
    assert parts < whole / 4


def test_scoring_pairs_keeps_one_block_of_the_joint_encoder(monkeypatch):
    task = make_task("tight")
    features = {k: v.detach() for k, v in task.encode(make_batch()).items()}

    def most(pairs):
        monkeypatch.setattr(fusion, "PAIRS_AT_ONCE", pairs)
        kept = Kept(task.model)
        with kept.watching():
            task.objective(features)[0].backward()
        return kept.most

    assert most(3) < most(64) / 4


@pytest.mark.parametrize("pairs", [1, 3, 8, 64])
def test_blocks_of_pairs_change_no_score(pairs, monkeypatch):
    task, batch = make_task("local_to_local"), make_batch()
    with torch.no_grad():
        expected = task._scores(task.encode(batch), 10.0)
    monkeypatch.setattr(fusion, "PAIRS_AT_ONCE", pairs)
    torch.testing.assert_close(task._scores(task.encode(batch), 10.0), expected)


def test_only_a_chunk_is_moved_to_the_device(monkeypatch):
    moved, original = [], module.to_device

    def moving(batch, device):
        moved.append(len(batch["clip_id"]))
        return original(batch, device)

    monkeypatch.setattr(module, "to_device", moving)
    gradients(make_task("stage 1"), chunks_of(make_batch(5), 2))
    assert moved == [2, 2, 1, 2, 2, 1]


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_encoding_again_leaves_out_what_does_not_learn(name):
    task, batch = make_task(name), make_batch(2)
    first, again = task.encode(batch), task.encode(batch, again=True)
    assert {n for n, x in again.items() if x.requires_grad} == {
        n for n, x in first.items() if x.requires_grad
    }
    for name, x in again.items():
        assert torch.equal(x, first[name])
    if task.run is CASES["stage 1"]:
        assert set(first) - set(again) == {"text", "vision"}


def test_a_frozen_tower_keeps_nothing_for_the_backward_pass():
    task, batch = make_task("stage 1"), make_batch(2)
    kept = Kept(task.model)
    with kept.watching():
        task.model.encode_text(batch["tokens"])
        task.model.encode_vision(batch["frames"], batch["frame_mask"])
    assert kept.most == 0
    with kept.watching():
        task.model.encode_audio(batch["audio"], batch["audio_mask"], batch["nonverbal_share"])
    assert kept.most > 0


def test_joined_features_are_padded_at_their_end():
    batch = make_batch(4)
    task = make_task("tight")
    whole = task.encode(batch)
    parts = [task.encode(part) for part in chunks_of(batch, 1)]
    assert {part["vision"].shape[1] for part in parts} == {1, 2}
    found = joined(parts)
    assert found.keys() == whole.keys()
    for name, x in whole.items():
        torch.testing.assert_close(found[name], x)


def test_numbers_tell_clips_apart():
    numbers = numbers_of(["x", "y", "x", "é" * 100])
    assert numbers.dtype == torch.int64
    assert numbers[0] == numbers[2] and len(set(numbers.tolist())) == 3
    assert numbers[0].item() == 5395104992458594383  # on every machine


def test_cutting_a_batch_is_what_a_loader_gives():
    assert cut(make_batch(), slice(2, 3))["audio"].shape[1] == 1  # a clip without sound

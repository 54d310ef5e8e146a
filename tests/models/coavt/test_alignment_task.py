"""Losses of CoAVT's tasks and their gradients, in chunks and on ranks."""

import functools
import math

import pytest
import torch
from coavt_cases import (
    CASES,
    CPU,
    build_processor,
    chunks_of,
    make_batch,
    make_task,
    objective,
    pretrain,
)
from copies import waits_of
from gloo_ranks import on_ranks
from gradient_cases import assert_equal, gradients, in_double, unscaled

from clip4vla.common.errors import UserError
from clip4vla.models.coavt import tasks
from clip4vla.models.coavt.negatives import draw_negatives as draw
from clip4vla.models.common.batch_features import joined
from clip4vla.models.common.gather import average_gradients
from clip4vla.training import gradients as module
from clip4vla.training.gradients import backward
from clip4vla.training.switches import checkpoint_activations, compile_blocks

CONTRASTIVE = [name for name in CASES if name != "captions"]


@pytest.fixture
def double(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.float)  # put back afterwards
    in_double()


def test_losses_start_at_chance():
    """ln B of the contrast (six clips), ln 2 of matching, ln V of words, all without smoothing."""
    task = make_task("everything", dtype=torch.float32)
    run = pretrain(objective=objective(smoothing=0, language_smoothing=0, bimodal_language=1))
    task.run = run.model_copy(update={"model": task.run.model})
    batch = make_batch(6, torch.float32, frames=[1] * 8, sounds=[1] * 8)
    batch["clip_id"] = list("abcdef")
    _, terms = task.loss(batch)
    for name in ("av", "a", "v"):
        assert terms[f"contrast_{name}"].item() == pytest.approx(math.log(6), abs=0.5)
        assert terms[f"matching_{name}"].item() == pytest.approx(math.log(2), abs=0.02)
        vocabulary = math.log(task.model.sizes.vocabulary)
        assert terms[f"language_{name}"].item() == pytest.approx(vocabulary, abs=0.1)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    task = make_task("everything")
    loss, terms = task.loss(make_batch(5))
    terms = {name: term.item() for name, term in terms.items()}
    expected = 0.3 * terms["audio_visual"]
    for name, weight, words in (("av", 1.0, 1.0), ("a", 1.0, 0.5), ("v", 0.7, 0.5)):
        pair = terms[f"contrast_{name}"] + terms[f"matching_{name}"]
        expected += weight * (pair + words * terms[f"language_{name}"])
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert terms["temperature"] == pytest.approx(0.07)
    assert len(terms) == 11


def reached(task, batch):
    task.model.zero_grad(set_to_none=True)
    task.loss(batch)[0].backward()
    named = task.model.named_parameters()
    return {name.split(".")[0] for name, p in named if p.grad is not None and p.grad.any()}


def test_what_is_trained_gets_gradients():
    both = {"audio", "vision", "shared", "query", "query_proj", "text_proj", "matching"}
    both |= {"language", "temperature"}
    assert reached(make_task("everything"), make_batch(5)) == both
    assert reached(make_task("text apart"), make_batch(5)) == both | {"text"}
    assert reached(make_task("sounds"), make_batch(5)) == both - {"vision"}
    words = reached(make_task("captions"), make_batch(5))
    assert words == {"audio", "vision", "shared", "query", "language"}
    positions = make_task("everything").model.audio.positions
    assert not positions.requires_grad


def test_sounds_do_not_depend_on_pictures_and_both_on_each():
    task = make_task("everything").model.eval()
    batch = make_batch(3, frames=[1] * 8, sounds=[1] * 8)
    other = batch | {"frames": batch["frames"].flip(0)}
    with torch.no_grad():
        one, two = (task.streams(task.encode_clips(b, ["audio", "vision"])) for b in (batch, other))
    assert one["audio"].features.equal(two["audio"].features)
    assert not one["av"].features.allclose(two["av"].features)


def test_a_clip_is_left_out_of_alignments_that_it_cannot_join():
    """The third clip has no sound: the alignment of sounds is that of the others alone."""
    task = make_task("everything")
    _, terms = task.loss(make_batch(5))
    rows = torch.tensor([0, 1, 3, 4])
    part = {
        key: [x[i] for i in rows] if isinstance(x, list) else x[rows]
        for key, x in make_batch(5).items()
    }
    _, expected = task.loss(part)
    for name in ("contrast_a", "language_a", "matching_a"):
        assert terms[name].item() == pytest.approx(expected[name].item(), rel=1e-9)
    assert terms["contrast_av"].item() != pytest.approx(expected["contrast_av"].item(), rel=1e-6)


@pytest.mark.parametrize("silent", [[0] * 8, [1] + [0] * 7])
@pytest.mark.parametrize("frames", [[1] * 8, [0] + [1] * 7, [0] * 8])
def test_clips_without_sound_or_frames_give_finite_gradients(silent, frames):
    task = make_task("everything", train=True, dropout=0.1)
    loss, terms = task.loss(make_batch(4, frames=frames, sounds=silent))
    loss.backward()
    assert loss.isfinite() and all(term.isfinite() for term in terms.values())
    grads = [p.grad for p in task.model.parameters() if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("size", [4, 2])
def test_a_batch_from_which_nothing_can_be_learned_has_zero_gradients(size):
    """Of sounds alone, without words, and all clips are silent."""
    task = make_task("everything")
    of_sound = objective(audio_visual_text=0, visual_text=0, language=0)
    task.run = task.run.model_copy(update={"objective": of_sound})
    batch = make_batch(4, sounds=[0] * 8)
    loss, found = gradients(task, chunks_of(batch, size))
    assert loss == 0 and not any(x.any() for x in found.values() if x is not None)


def test_negatives_are_drawn_anew_in_each_epoch_and_alignment(monkeypatch):
    """Where a batch has all clips, its samples are those of every step."""
    drawn = []
    monkeypatch.setattr(
        tasks, "draw_negatives", lambda *given: drawn.append(draw(*given)) or drawn[-1]
    )
    task = make_task("everything")
    batch = make_batch(8, frames=[1] * 8, sounds=[1] * 8)
    batch["clip_id"] = list("abcdefgh")
    for epoch in (0, 1, 0):
        task.objective(task.encode(batch | {"epoch": epoch}))
    first, second, again = (
        torch.stack([torch.cat(x) for x in drawn[i : i + 3]]) for i in (0, 3, 6)
    )
    assert not first.equal(second) and first.equal(again)
    assert not first[0].equal(first[1]) and not first[0].equal(first[2])


def test_a_batch_of_one_clip_has_no_negatives():
    batch = make_batch(2) | {"clip_id": ["x", "x"]}
    with pytest.raises(
        UserError, match="optimiser.batch_size: all 2 samples of a batch are of one"
    ):
        make_task("everything").loss(batch)


def test_a_step_rarely_waits_for_the_device():
    """By masks of texts 14 times, of clips 9 times, and by pairs that take part in losses 8 times."""
    task, batch = make_task("everything"), make_batch(5)
    assert waits_of(lambda: backward(task, [batch], CPU, lambda loss: loss)) <= 31


@pytest.mark.parametrize("microbatch", [None, 2, 5])
def test_keys_of_a_clip_are_computed_once_in_an_alignment(microbatch, monkeypatch):
    """Of a whole batch; a chunk of negatives computes those of each of its clips once."""
    task, counted = make_task("everything", microbatch=microbatch), []
    keys_of = task.model.query.keys_of
    monkeypatch.setattr(
        task.model.query, "keys_of", lambda clip: counted.append(len(clip.mask)) or keys_of(clip)
    )
    batch = make_batch(5, frames=[1] * 8, sounds=[1] * 8)
    task.loss(batch)
    assert sum(counted) == 3 * 5
    counted.clear()
    task.objective(task.encode(batch))
    chunks = 3 * math.ceil(2 * 5 / (microbatch or 10))
    assert 3 * (5 + 5) <= sum(counted) <= 3 * (5 + 5) + chunks


def test_columns_of_padding_alone_are_not_encoded():
    task = make_task("everything")
    texts = ["a dog", "rain", "wind and rain", "one", ""]
    narrow, wide = (build_processor().tokenize(texts, length) for length in (5, 8))
    expected, found = (task.encode(make_batch(5) | {"tokens": x}) for x in (narrow, wide))
    assert found["tokens"].equal(narrow)
    by_text = {name for name in expected if name.startswith(("sample", "dice"))}
    for name in expected.keys() - by_text:  # negatives are drawn by whole texts
        assert found[name].equal(expected[name]), name


@pytest.mark.parametrize("name", CASES)
def test_chunks_have_the_gradients_of_the_whole_batch(name, double):
    batch = make_batch(5)
    expected = gradients(make_task(name), [batch])
    loss, found = gradients(make_task(name, microbatch=2), chunks_of(batch, 2))
    assert loss == pytest.approx(expected[0], rel=1e-12)
    assert_equal(found, expected[1], 1e-10)


def test_dropout_is_the_same_when_a_chunk_is_encoded_again(double):
    task = make_task("everything", train=True, dropout=0.1, microbatch=2)
    chunks = chunks_of(make_batch(5), 2)
    torch.manual_seed(7)
    loss, _ = task.objective(joined([task.encode(chunk) for chunk in chunks]))
    loss.backward()
    expected = {n: None if p.grad is None else p.grad for n, p in task.model.named_parameters()}
    torch.manual_seed(7)
    value, found = gradients(task, chunks)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    assert_equal(found, expected, 1e-10)
    torch.manual_seed(8)
    assert gradients(task, chunks)[0] != pytest.approx(value, rel=1e-6)  # there is dropout


def test_half_precision_reaches_the_same_parameters(monkeypatch):
    """bfloat16 on the CPU stands for a GPU."""
    half = lambda device, model: torch.autocast(device.type, torch.bfloat16)  # noqa: E731
    batch = make_batch(5, torch.float32)
    tasks = [make_task("everything", dtype=torch.float32, microbatch=size) for size in (None, 2)]
    loss, exact = gradients(tasks[0], [batch])
    monkeypatch.setattr(module, "autocast", half)
    for task, chunks in zip(tasks, ([batch], chunks_of(batch, 2)), strict=True):
        value, found = gradients(task, chunks)
        assert value == pytest.approx(loss, rel=0.02)
        assert found.keys() == exact.keys()
        for name, grad in exact.items():
            assert (grad is None) == (found[name] is None), name


@pytest.mark.parametrize(
    "name",
    ["everything", *(pytest.param(n, marks=pytest.mark.slow) for n in ("as LAVIS", "captions"))],
)
def test_ranks_have_the_gradients_of_one_process(name, double, tmp_path):
    expected = gradients(make_task(name), [make_batch()])
    for world, size in ((2, 4), (4, 1)):  # whole batches, and chunks
        folder = tmp_path / str(world)
        folder.mkdir()
        for loss, found in on_ranks(world, folder, functools.partial(on_rank, name, size)):
            assert loss == pytest.approx(expected[0], rel=1e-10)
            assert_equal(found, expected[1], 1e-9)


def on_rank(name, size, rank, world):
    """Position p of a batch belongs to rank p mod `world`; each rank has chunks of `size` clips."""
    batch = make_batch()
    own = {key: value[rank::world] for key, value in batch.items()}
    chunks = chunks_of(own, size)
    task = make_task(name, microbatch=size if len(chunks) > 1 else None)
    loss, _ = backward(task, chunks, torch.device("cpu"), unscaled)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    average_gradients(parameters)
    return loss.item(), {name: p.grad for name, p in task.model.named_parameters()}


def stepped(task, chunks):
    """Loss and gradients of a step whose dropout is always the same."""
    torch.manual_seed(3)
    return gradients(task, chunks)


def test_recomputed_blocks_have_the_same_bits_with_dropout():
    batch = make_batch(4, torch.float32)
    task = make_task("everything", train=True, dtype=torch.float32, dropout=0.1, microbatch=3)
    plain = [stepped(task, chunks) for chunks in ([batch], chunks_of(batch, 3))]
    checkpoint_activations(task.model)
    again = [stepped(task, chunks) for chunks in ([batch], chunks_of(batch, 3))]
    for (loss, found), (expected_loss, expected) in zip(again, plain, strict=True):
        assert loss == expected_loss
        for name, grad in expected.items():
            assert (grad is None) == (found[name] is None)
            assert grad is None or torch.equal(grad, found[name]), name


@pytest.mark.slow
def test_compiled_blocks_compute_the_same():
    batch = make_batch(4, torch.float32)
    task = make_task("everything", dtype=torch.float32)
    loss, expected = gradients(task, [batch])
    names = list(task.model.state_dict())
    try:
        compile_blocks(task.model, backend="aot_eager")
        value, found = gradients(task, [batch])
    finally:
        torch._dynamo.reset()
    assert list(task.model.state_dict()) == names
    assert value == pytest.approx(loss, rel=1e-5)
    assert_equal(found, expected, 1e-3)

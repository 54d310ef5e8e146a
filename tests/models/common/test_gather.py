"""Several gloo processes have the gradients of one process with the whole batch."""

import pytest
import torch
from gloo_ranks import on_ranks
from gradient_cases import assert_equal, chunks_of, cut, gradients, in_double, make_batch, make_task
from torch import nn

from clip4vla.config.sections import Optimiser
from clip4vla.models.common import gather as gather_module
from clip4vla.models.common.gather import average_gradients, gather, local_rows, summed, world_size
from clip4vla.training.gradients import backward
from clip4vla.training.optimiser import Updates

WHOLE = (
    "stage 1",
    "stage 2, every term",
    "global_to_global",
    "tight",
    "query2sim",
    "captions, pads",
)
FEW = ("stage 2, every term", "tight")
CHUNKED = ("stage 2, every term", "global_to_local", "local_to_local", "captions")


@pytest.fixture(autouse=True)
def double(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.float)  # put back afterwards
    in_double()


def averaged(task, chunks):
    loss, _ = gradients(task, chunks)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    average_gradients(parameters)
    return loss, {name: p.grad for name, p in task.model.named_parameters()}


def own_part(rank, world):
    """The rank's clips; their padding is their own: frames and segments differ between ranks."""
    size = 8 // world
    return cut(make_batch(), slice(rank * size, (rank + 1) * size))


def steps(rank, world):
    """Gradients of every case, and the weights after one update."""
    batch, found = own_part(rank, world), {}
    for name in WHOLE if world == 2 else FEW:
        found[name] = averaged(make_task(name), [batch])
    for name in CHUNKED if world == 2 else CHUNKED[-2:]:
        found[f"{name}, in chunks"] = averaged(make_task(name), chunks_of(batch, 3))
    found["update"] = updated(make_task("stage 1, learned scale"), batch)
    return found


def updated(task, batch):
    """The model after the first update, which does not clip."""
    updates = Updates(task.model, Optimiser(lr=0.1, warmup=0.0, grad_clip=1e9), 10, task.heads)
    gradients(task, [batch], updates.scaled)
    norm = updates(0)["grad_norm"]
    return norm, {name: p.detach() for name, p in task.model.named_parameters()}


@pytest.fixture(scope="module")
def alone():
    """One process on the whole batch."""
    original = torch.Tensor.float
    in_double()
    found = {name: gradients(make_task(name), [make_batch()]) for name in {*WHOLE, *CHUNKED}}
    found["update"] = updated(make_task("stage 1, learned scale"), make_batch())
    torch.Tensor.float = original
    return found


@pytest.mark.parametrize(
    "world", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_ranks_have_the_gradients_of_one_process(world, alone, tmp_path):
    ranks = on_ranks(world, tmp_path, steps)
    for found in ranks:
        for name, (loss, grads) in found.items():
            expected = alone[name.removesuffix(", in chunks")]
            assert loss == pytest.approx(expected[0], rel=1e-10), name
            if name == "update":  # of others Adam makes steps even of rounding
                difference = grads["logit_scale"] - expected[1]["logit_scale"]
                assert abs(difference.item()) < 1e-9
            else:
                assert_equal(grads, expected[1], 1e-10)
    for found in ranks[1:]:
        for name, value in found["update"][1].items():
            assert torch.equal(value, ranks[0]["update"][1][name])  # they stay in step


def odd_ends(rank, world):
    """What a rank sees of gathering: sequences of other lengths, other sizes, no gradient."""
    length = 2 + rank
    features = {
        "words": torch.full((2, length, 3), float(rank + 1), requires_grad=True),
        "mask": torch.ones(2, length, dtype=torch.bool),
        "clip": torch.tensor([rank, 2**62 + rank]),
    }
    whole = gather(features)
    weight = (1.0 + torch.arange(2.0 * world))[:, None, None] * whole["mask"][..., None]
    ((rank + 1) * whole["words"] * weight).sum().backward()  # a loss of its own on every rank
    try:
        gather({"x": torch.zeros(2 + rank, 3)})
        message = ""
    except ValueError as error:
        message = str(error)
    module = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(4)])
    module[3].half()
    module[0].weight.grad = torch.full((1, 1), float(rank))
    module[3].weight.grad = torch.full((1, 1), 4.0 * rank, dtype=torch.float16)
    if rank == 1:
        module[1].weight.grad = torch.ones(1, 1)
    average_gradients(list(module.parameters()))
    return {
        "whole": {name: x.detach() for name, x in whole.items()},
        "gradient": features["words"].grad,
        "rows": list(range(2 * world)[local_rows(2 * world)]),
        "message": message,
        "averaged": [p.grad for p in module.parameters()],
        "sum": summed(torch.tensor(rank + 1)),
    }


def test_gathering_pads_keeps_the_order_and_sums_gradients(tmp_path):
    found = on_ranks(2, tmp_path, odd_ends)
    for rank, seen in enumerate(found):
        words, mask, clip = (seen["whole"][name] for name in ("words", "mask", "clip"))
        assert words[:, :, 0].tolist() == [[1, 1, 0], [1, 1, 0], [2, 2, 2], [2, 2, 2]]
        assert torch.equal(mask, words[:, :, 0] > 0) and mask.dtype == torch.bool
        assert clip.tolist() == [0, 2**62, 1, 2**62 + 1]
        assert seen["rows"] == [2 * rank, 2 * rank + 1]
        rows = torch.tensor([1.0, 2.0]) + 2 * rank
        expected = (1 + 2) * rows[:, None, None].expand_as(seen["gradient"])
        assert torch.equal(seen["gradient"], expected)
        assert seen["message"].startswith("ranks have [2, 3] clips")
        assert [g and g.item() for g in seen["averaged"]] == [0.5, 0.5, None, 2.0]
        assert seen["averaged"][3].dtype is torch.float16
        assert seen["sum"].item() == 3


def averaged_layouts(rank, world):
    """Averages of gradients whose strides are not those of their rows, and sizes of messages."""
    torch.manual_seed(rank)
    sent, send = [], torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda x, **options: (sent.append(len(x)), send(x, **options))
    gather_module.MESSAGE = 10
    parameters = [nn.Parameter(torch.zeros(3, 2).T), *(nn.Parameter(torch.zeros(4)) for _ in "abc")]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    own = [p.grad.clone() for p in parameters]
    average_gradients(parameters)
    strides = [(p.stride(), p.grad.stride()) for p in parameters]
    return own, [p.grad for p in parameters], strides, sent[1:]


def test_averages_keep_strides_and_are_sent_in_messages_of_some_size(tmp_path):
    # fused AdamW on a CPU reads memory in its order: other strides would mix up the weights
    (first, *found), (second, *others) = on_ranks(2, tmp_path, averaged_layouts)
    for averages, strides, sent in (found, others):
        for average, *own in zip(averages, first, second, strict=True):
            assert torch.allclose(average, (own[0] + own[1]) / 2)
        assert all(parameter == gradient for parameter, gradient in strides)
        assert sent == [10, 8]


class MeanTask:
    """A task that is no contrast: its loss is the mean over targets, its only term half of that."""

    def __init__(self):
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.model.weight)

    def targets(self, batch):
        return len(batch["x"])

    def loss(self, batch):
        loss = self.model(batch["x"]).mean()
        return loss, {"half": loss / 2}


def loss_and_term(rank, world):
    """Those of rank + 1 targets, each of loss 3 * rank."""
    chunk = {"x": torch.full((rank + 1, 1), 3.0 * rank)}
    loss, terms = backward(MeanTask(), [chunk], torch.device("cpu"), lambda loss: loss)
    return [loss.item(), terms["half"].item()]


def test_loss_and_terms_are_means_over_the_targets_of_all_ranks(tmp_path):
    assert on_ranks(2, tmp_path, loss_and_term) == [pytest.approx([2.0, 1.0])] * 2


def test_one_process_needs_no_group():
    features = {"x": torch.ones(2, 3)}
    assert world_size() == 1
    assert gather(features) is features
    assert local_rows(5) == slice(0, 5)

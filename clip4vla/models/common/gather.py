"""The batch of all ranks, with exact gradients (facts 5.5).

Every rank contributes the features of its own clips and computes the loss of the global batch. In
the backward pass the gradients of the features are summed over the ranks, and each rank continues
with its own rows. When the gradients of the parameters are then averaged over the ranks, they are
those of one process with the whole batch, for towers and for all modules after the gathering. (The
released code keeps only the local gradient: its towers get 1 / ranks of it.)

Without a process group there is one rank, and these functions do nothing.
"""

from collections import Counter
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx

from clip4vla.models.common.batch_features import Features, padded

MESSAGE = 1 << 24  # numbers, after which the gradients of ranks are averaged in another message


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_rows(count: int) -> slice:
    """Return this rank's rows of the `count` clips of a global batch."""
    world = world_size()
    size = count // world
    rank = dist.get_rank() if world > 1 else 0
    return slice(rank * size, (rank + 1) * size)


def gather(features: Features) -> Features:
    """Return the features of the global batch, in the order of the ranks; differentiable.

    Sequences are padded to the longest of all ranks. Raises ValueError, on every rank, unless all
    have the same number of clips.
    """
    if world_size() == 1:
        return features
    names = sorted(features)  # the same order on all ranks: collective calls are matched by it
    tensors = _equally_long([features[name] for name in names])
    return dict(zip(names, _Gather.apply(*tensors), strict=True))


def summed(x: Tensor) -> Tensor:
    """Return the sum of a tensor over the ranks, without gradients."""
    if world_size() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the ranks.

    A parameter without a gradient on some rank counts as zero there. One without a gradient on all
    ranks keeps none, so that the optimiser skips it, as in one process.
    """
    world = world_size()
    if world == 1:
        return
    reached = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    reached = reached.to(parameters[0].device)
    dist.all_reduce(reached, op=dist.ReduceOp.MAX)
    learned = [p for p, anywhere in zip(parameters, reached.tolist(), strict=True) if anywhere]
    for some in _messages(learned):
        for parameter in some:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in some if p.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(joined)
        joined /= world
        for gradient, part in zip(gradients, joined.split([*map(Tensor.numel, some)]), strict=True):
            gradient.copy_(part.view_as(gradient))  # whose strides are those of the parameter


def _messages(parameters: list[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """Return parameters of one type together: a message has a latency, and takes memory."""
    messages: dict[tuple[torch.dtype, int], list[nn.Parameter]] = {}
    sizes: Counter[torch.dtype] = Counter()
    for parameter in parameters:
        key = parameter.dtype, sizes[parameter.dtype] // MESSAGE
        messages.setdefault(key, []).append(parameter)
        sizes[parameter.dtype] += parameter.numel()
    return messages.values()


def _equally_long(tensors: list[Tensor]) -> list[Tensor]:
    """Pad tensors [B, n, ...] to the largest n of all ranks."""
    sizes = [[len(x), x.shape[1] if x.ndim > 1 else 0] for x in tensors]
    local_sizes = torch.tensor(sizes, device=tensors[0].device)  # [tensors, 2]
    all_sizes = torch.stack(_all(local_sizes))  # [ranks, tensors, 2]
    clips = all_sizes[:, 0, 0].tolist()
    if len(set(clips)) > 1:
        raise ValueError(f"ranks have {clips} clips, but a gathered batch needs equal numbers")
    lengths = all_sizes[..., 1].amax(dim=0).tolist()
    return [padded(x, length) for x, length in zip(tensors, lengths, strict=True)]


def _all(x: Tensor) -> list[Tensor]:
    """Return the tensors of all ranks, which have equal shapes."""
    plain = x.to(torch.uint8) if x.dtype is torch.bool else x.contiguous()  # gloo has no bool
    parts = [torch.empty_like(plain) for _ in range(world_size())]
    dist.all_gather(parts, plain)
    return [part.to(x.dtype) for part in parts]


class _Gather(torch.autograd.Function):
    """One node for all tensors, so that all ranks call `all_reduce` in the same order."""

    @staticmethod
    def forward(ctx: FunctionCtx, *tensors: Tensor) -> tuple[Tensor, ...]:
        gathered = tuple(torch.cat(_all(x)) for x in tensors)
        ctx.mark_non_differentiable(*(x for x in gathered if not x.is_floating_point()))
        return gathered

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        local_gradients = []
        for gradient, needed in zip(gradients, ctx.needs_input_grad, strict=True):
            if needed:
                gradient = gradient.clone(memory_format=torch.contiguous_format)
                dist.all_reduce(gradient)
            rows = local_rows(len(gradient))
            local_gradients.append(gradient[rows] if needed else None)
        return tuple(local_gradients)

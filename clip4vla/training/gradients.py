"""The gradients of one step, whose clips may be moved to the device in several chunks.

A contrast is over the whole batch, so chunks cannot be trained on one by one. With gradient caching
every chunk is encoded twice: without a graph, to get the features that the loss compares, and again
with one, to pass the gradients of its features on to the weights. So memory is that of one chunk
and of all features, and the gradients are those of the whole batch. Any other loss is a mean over
targets: its chunks are weighted by their numbers of targets.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from clip4vla.common.device import autocast, to_device
from clip4vla.models.common.batch_features import Features, joined
from clip4vla.models.common.gather import gather, summed, world_size
from clip4vla.models.common.task import ContrastiveTask, Loss, Task


def backward(
    task: Task, chunks: list[dict], device: torch.device, scaled: Callable[[Tensor], Tensor]
) -> Loss:
    """Add the gradients of a batch, in chunks on the CPU; return its loss and terms, detached.

    scaled: applied to the loss before the backward pass (the loss scaling of float16). Once
    averaged over ranks (`average_gradients`), the gradients are those of the global batch.
    """
    if isinstance(task, ContrastiveTask) and len(chunks) > 1:
        loss, terms = _cached(task, chunks, device, scaled)
    elif isinstance(task, ContrastiveTask):
        with autocast(device, task.model):
            loss, terms = task.loss(to_device(chunks[0], device))
        scaled(loss).backward()
    else:
        loss, terms = _accumulated(task, chunks, device, scaled)
    return loss.detach(), {name: term.detach() for name, term in terms.items()}


def _cached(
    task: ContrastiveTask,
    chunks: list[dict],
    device: torch.device,
    scaled: Callable[[Tensor], Tensor],
) -> Loss:
    states, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state(device))
            with autocast(device, task.model):
                parts.append(task.encode(to_device(chunk, device)))
    features = joined(parts)
    for x in features.values():
        x.requires_grad_(x.is_floating_point())
    with autocast(device, task.model):
        loss, terms = task.objective(gather(features))
    scaled(loss).backward()
    gradients = {name: x.grad for name, x in features.items() if x.grad is not None}
    first = 0  # row of the chunk in the features of this rank
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for chunk, state in zip(chunks, states, strict=True):
            _set_random_state(state, device)  # the same dropout as before
            with autocast(device, task.model):
                again = task.encode(to_device(chunk, device), again=True)
            _backward_from(again, gradients, first)
            first += len(chunk["clip_id"])
    return loss, terms


def _backward_from(features: Features, gradients: Features, first: int) -> None:
    """Run the backward pass of a chunk's features from their rows, from `first`, of `gradients`."""
    outputs, output_gradients = [], []
    for name, x in features.items():
        if x.requires_grad and name in gradients:
            rows = gradients[name][first : first + len(x)]  # [B, ...], padded to the longest chunk
            outputs.append(x)
            output_gradients.append((rows[:, : x.shape[1]] if x.ndim > 1 else rows).to(x.dtype))
    if outputs:
        torch.autograd.backward(outputs, output_gradients)


def _accumulated(
    task: Task, chunks: list[dict], device: torch.device, scaled: Callable[[Tensor], Tensor]
) -> Loss:
    counts = [task.targets(chunk) for chunk in chunks]
    targets = summed(torch.tensor(sum(counts), device=device)).item()
    total = torch.zeros((), device=device)
    sums: dict[str, Tensor] = {}
    for chunk, count in zip(chunks, counts, strict=True):
        weight = count * world_size() / targets  # averaging over ranks divides by world_size
        with autocast(device, task.model):
            loss, terms = task.loss(to_device(chunk, device))
        scaled(loss * weight).backward()
        total = total + loss.detach() * weight
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.detach() * weight
    terms = {name: summed(term) / world_size() for name, term in sums.items()}
    return summed(total) / world_size(), terms


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)

"""Operations of a computation by the formulas of torch's FLOP counter, on shapes without values.

Floats are on the meta device. Integers and booleans, such as tokens and masks, have their values,
because these decide what is computed. A decision that depends on floats, such as whether a caption
has ended, sees zeros.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
CPU, META = torch.device("cpu"), torch.device("meta")
MADE_LIKE = {  # tensors made in the shape or on the device of another one, whatever its values
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default),
    *(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default),
}
TO_LIST = Tensor.tolist
BY_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class Counter:
    """Counts operations; equal blocks of all its models are computed once."""

    def __init__(self) -> None:
        self.blocks: dict[Any, _BlockCost | None] = {}
        self.parameters: dict[nn.Module, dict[str, nn.Parameter]] = {}  # of every block
        self.functions: dict[Any, Any] = {}

    def __call__(self, compute: Callable[[], object], blocks: Sequence[nn.Module] = ()) -> float:
        """Return the operations of `compute`, which may call `blocks`, those of a model."""
        shapes = _Shapes(self.functions)
        repeated = _Repeated(self.blocks, shapes)
        with ExitStack() as stack:
            for block in blocks:
                if block not in self.parameters:
                    self.parameters[block] = dict(block.named_parameters())
                forward = repeated.forward_of(block, self.parameters[block])
                stack.enter_context(patch.object(block, "forward", forward))
            stack.enter_context(patch.object(Tensor, "tolist", _to_list))  # never dispatched
            stack.enter_context(shapes)
            compute()
        return shapes.total + repeated.total


class _BlockCost(NamedTuple):
    """Operations of a block. learns: whether its output requires gradients."""

    forward: int
    backward: int
    learns: bool


class _Repeated:
    """Lets a block be computed once, and an identity with its cost stand for its repetitions.

    Transformers have dozens of equal blocks: counted one by one, a plan would take minutes.
    """

    def __init__(self, known: dict[Any, _BlockCost | None], shapes: "_Shapes"):
        self.known, self.shapes = known, shapes
        self.total = 0

    def forward_of(
        self, block: nn.Module, parameters: dict[str, nn.Parameter]
    ) -> Callable[..., Any]:
        """Return what stands for `block.forward`."""
        compute = block.forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            others = [y for y in tree_leaves((args, kwargs)) if isinstance(y, Tensor)]
            if any(y.requires_grad for y in others):
                return compute(x, *args, **kwargs)
            about = type(block), block.training, torch.is_grad_enabled(), *parameters
            key = about, _learning(parameters.values()), _learning([x, *others])
            if key not in self.known:
                self.known[key] = self._measured(lambda x: compute(x, *args, **kwargs), x)
            elif cost := self.known[key]:
                recomputed = torch._C._current_graph_task_id() >= 0  # a checkpoint, going backward
                self.total += cost.forward + (0 if recomputed else cost.backward)
            cost = self.known[key]
            if cost is None:
                return compute(x, *args, **kwargs)
            return x.detach().requires_grad_() if cost.learns and not x.requires_grad else x

        return forward

    def _measured(self, compute: Callable[[Tensor], Any], x: Tensor) -> _BlockCost | None:
        """Return the cost; None for a block whose output is not like its input."""
        before = self.shapes.total
        # Hooks of its own hide this pass from an activation checkpoint around it.
        with saved_tensors_hooks(lambda x: x, lambda x: x):
            y = compute(x.detach().requires_grad_(x.requires_grad))
        forward = self.shapes.total - before
        if not isinstance(y, Tensor) or (y.shape, y.dtype) != (x.shape, x.dtype):
            self.total -= forward  # it will be computed again
            return None
        if y.requires_grad:
            y.backward(torch.empty_like(y))
        backward = self.shapes.total - before - forward
        return _BlockCost(forward, backward, learns=y.requires_grad)


def _learning(tensors: Iterable[Tensor]) -> tuple[Any, ...]:
    return tuple((x.shape, x.dtype, x.requires_grad) for x in tensors)


class _Shapes(TorchDispatchMode):
    """Computes on shapes: see the module. known: results of functions, by their arguments.

    The meta device computes shapes in Python, at up to a millisecond for a function.
    """

    def __init__(self, known: dict[Any, Any]):
        super().__init__()
        self.known = known
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled here, and the check would slow every function."""
        return False

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = list(_tensors((*args, *kwargs.values())))
        if not tensors or func in MADE_LIKE:
            return _made(func, args, kwargs)
        if not any(x.is_meta for x in tensors):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return 0.0
        if func in BY_INDEX:
            args = (args[0], _positions(args[1]), *args[2:])
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        if not all(x.is_meta for x in tensors):
            args = _each(_without_values, args)
            kwargs = {name: _each(_without_values, x) for name, x in kwargs.items()}
        result = self._known(func, args, kwargs)
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **kwargs, out_val=result)
        if any(x.is_meta and x.is_floating_point() for x in tensors):
            return _each(_valued, result)
        return result

    def _known(
        self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not _is_new(func):
            return func(*args, **kwargs)
        key = func, _described(args), _described([*kwargs.items()])
        if key not in self.known:
            self.known[key] = func(*args, **kwargs)
        return _each(_another, self.known[key])


@cache
def _is_new(func: torch._ops.OpOverload) -> bool:
    """Return whether a function changes no argument and gives none back, not even a view of it."""
    schema = func._schema
    return not any(x.alias_info for x in (*schema.arguments, *schema.returns))


def _made(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a tensor that is made without reading another one's values."""
    made = func(*args, **kwargs)
    if not isinstance(made, Tensor) or not made.is_meta or made.is_floating_point():
        return made
    like = [torch.empty(x.shape) if isinstance(x, Tensor) else x for x in args]
    return func(*like, **kwargs | {"device": CPU, "dtype": made.dtype})


def _positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return indices with the positions of a mask in its place: shapes depend on their number."""
    found: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype is torch.bool
        found += index.nonzero().unbind(1) if is_mask and index is not None else [index]
    return found


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _described(x: Any) -> Any:
    """Return what decides the shapes and types of a result, to be hashed."""
    if isinstance(x, Tensor):
        return x.shape, x.stride(), x.dtype
    return tuple(map(_described, x)) if isinstance(x, (list, tuple)) else (type(x), x)


def _each(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a value with each of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    return (
        type(value)(_each(change, x) for x in value) if isinstance(value, (list, tuple)) else value
    )


def _another(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=META)


def _valued(x: Tensor) -> Tensor:
    """Give integers and booleans that were computed from floats a value."""
    return x if x.is_floating_point() else torch.zeros(x.shape, dtype=x.dtype)


def _to_list(x: Tensor) -> Any:
    return TO_LIST(torch.zeros(x.shape, dtype=x.dtype) if x.is_meta else x)


def _without_values(x: Tensor) -> Tensor:
    return x.to(META)

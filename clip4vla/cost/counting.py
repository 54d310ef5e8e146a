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
from torch.utils._pytree import tree_flatten, tree_unflatten
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
        self.shapes = _Shapes()
        self.repeated = _Repeated(self.shapes)

    def __call__(self, compute: Callable[[], object], blocks: Sequence[nn.Module] = ()) -> int:
        """Return the operations of `compute`, which may call `blocks`, those of a model."""
        before = self._total()
        with ExitStack() as stack:
            for block in blocks:  # past `nn.Module.__setattr__`, which costs more than the call
                vars(block)["forward"] = self.repeated.forward_of(block)
                stack.callback(vars(block).pop, "forward")
            stack.enter_context(patch.object(Tensor, "tolist", _to_list))  # never dispatched
            stack.enter_context(self.shapes)
            compute()
        return self._total() - before

    def _total(self) -> int:
        return self.shapes.total + self.repeated.total


class _BlockCost(NamedTuple):
    """Operations of a block. learns: whether its output requires gradients."""

    forward: int
    backward: int
    learns: bool


class _Repeated:
    """Lets a block be computed once, and a stand-in with its cost take its place afterwards.

    Transformers have dozens of equal blocks: counted one by one, a plan would take minutes.
    """

    def __init__(self, shapes: "_Shapes"):
        self.shapes = shapes
        self.known: dict[Any, _BlockCost | None] = {}
        self.forwards: dict[nn.Module, Callable[..., Any]] = {}
        self.total = 0

    def forward_of(self, block: nn.Module) -> Callable[..., Any]:
        """Return what stands for `block.forward`."""
        if block not in self.forwards:
            self.forwards[block] = self._stand_in(block)
        return self.forwards[block]

    def _stand_in(self, block: nn.Module) -> Callable[..., Any]:
        compute, parameters = block.forward, dict(block.named_parameters())

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            leaves, form = tree_flatten((args, kwargs))
            others = [y for y in leaves if isinstance(y, Tensor)]
            about = type(block), block.training, torch.is_grad_enabled(), *parameters
            values = tuple(y for y in leaves if not isinstance(y, Tensor))
            key = about, _learning(parameters.values()), _learning([x, *others]), values, form
            if key not in self.known:
                apart = [_apart(y) if isinstance(y, Tensor) else y for y in leaves]
                own_args, own_kwargs = tree_unflatten(apart, form)
                self.known[key] = self._measured(lambda x: compute(x, *own_args, **own_kwargs), x)
            cost = self.known[key]
            if cost is None:
                return compute(x, *args, **kwargs)
            self.total += cost.forward
            if not cost.learns:
                return x
            if not any(y.requires_grad for y in (x, *others)):  # only its parameters learn
                x = x.detach().requires_grad_()
            return _StandIn.apply(lambda: self._add(cost.backward), x, *others)

        return forward

    def _add(self, operations: int) -> None:
        self.total += operations

    def _measured(self, compute: Callable[[Tensor], Any], x: Tensor) -> _BlockCost | None:
        """Return the cost; None for a block whose output is not like its input."""
        before = self.shapes.total
        # Hooks of its own hide this pass from an activation checkpoint around it.
        with saved_tensors_hooks(lambda x: x, lambda x: x):
            y = compute(_apart(x))
        forward = self.shapes.total - before
        like_input = isinstance(y, Tensor) and (y.shape, y.dtype) == (x.shape, x.dtype)
        if like_input and y.requires_grad:
            y.backward(torch.empty_like(y))
        backward = self.shapes.total - before - forward
        self.shapes.total = before
        return _BlockCost(forward, backward, learns=y.requires_grad) if like_input else None


class _StandIn(torch.autograd.Function):
    """An output like `x`, which passes gradients on to `x` and the others."""

    @staticmethod
    def forward(ctx: Any, on_backward: Callable[[], None], x: Tensor, *others: Tensor) -> Tensor:
        """See `torch.autograd.Function`. A checkpoint recomputes for what is saved here."""
        ctx.on_backward = on_backward
        ctx.save_for_backward(x, *others)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """See `torch.autograd.Function`."""
        ctx.on_backward()
        inputs = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return None, *(torch.empty_like(y) if learns else None for y, learns in inputs)


def _apart(x: Tensor) -> Tensor:
    """Return a tensor that learns as `x` does, without its history."""
    return x.detach().requires_grad_(x.requires_grad)


def _learning(tensors: Iterable[Tensor]) -> tuple[Any, ...]:
    return tuple((x.shape, x.dtype, x.requires_grad) for x in tensors)


class _Shapes(TorchDispatchMode):
    """Computes on shapes: see the module. Equal functions of equal arguments are computed once.

    The meta device computes shapes in Python, at up to some milliseconds for a function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Any, tuple[Any, int]] = {}  # result and operations
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
        result, operations = self._known(func, args, kwargs)
        self.total += operations
        if any(x.is_meta and x.is_floating_point() for x in tensors):
            return _each(_valued, result)
        return result

    def _known(
        self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, int]:
        if not _is_new(func):
            return func(*args, **kwargs), 0
        key = func, _described(args), _described([*kwargs.items()])
        if key not in self.known:
            result = SHAPES.get(func, func)(*args, **kwargs)
            formula = flop_registry.get(func.overloadpacket)
            operations = formula(*args, **kwargs, out_val=result) if formula else 0
            self.known[key] = result, operations
        result, operations = self.known[key]
        return _each(_another, result), operations


def _product(bias: Tensor, a: Tensor, b: Tensor, **_: object) -> Tensor:
    return _new((len(a), b.shape[1]), a.dtype)


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    inner = len(shape)
    statistic = _new([*x.shape[: x.ndim - inner], *[1] * inner], torch.float32)
    return _new(x.shape, x.dtype), statistic, statistic


def _layer_norm_backward(
    gradient: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    given = zip((x, weight, bias), wanted, strict=True)
    return tuple(
        _new(y.shape, y.dtype) if y is not None and learns else None for y, learns in given
    )


def _elementwise(x: Tensor, y: Tensor | float, **_: object) -> Tensor:
    shape = torch.broadcast_shapes(x.shape, y.shape) if isinstance(y, Tensor) else x.shape
    return _new(shape, torch.result_type(x, y))


def _like(x: Tensor, *_: object, **__: object) -> Tensor:
    return torch.empty_like(x)


def _new(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


# Frequent functions whose shapes torch finds in Python, in some milliseconds each.
SHAPES: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    aten.addmm.default: _product,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    **dict.fromkeys((aten.add.Tensor, aten.mul.Tensor, aten.mul.Scalar), _elementwise),
    **dict.fromkeys((aten.gelu.default, aten._safe_softmax.default), _like),
}


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

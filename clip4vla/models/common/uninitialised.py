"""Modules whose parameters have no values yet, for a file to fill."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DRAWS = {Tensor.normal_, Tensor.uniform_}


class _WithoutDraws(TorchFunctionMode):
    """Skips the functions of `torch.nn.init` and all draws: most of the time of building a model.

    What is allocated and not written takes no memory. The meta device is slower: its first tensor
    imports torch's compiler, a second of CPU in every command.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS or getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


@contextmanager
def uninitialised() -> Iterator[None]:
    """Leave out the initialisation of modules that are built in this context."""
    with _WithoutDraws():
        yield

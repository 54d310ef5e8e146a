"""Modules on the meta device: shapes without values."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _WithoutDraws(TorchFunctionMode):
    """Skips the functions of `torch.nn.init` and draws in place.

    On the meta device they change nothing, but take half of the time of building a model.
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
        return func(*args, **kwargs)


DRAWS = {Tensor.normal_, Tensor.uniform_}


@contextmanager
def on_meta() -> Iterator[None]:
    """Make new tensors on the meta device, and leave out their initialisation."""
    with torch.device("meta"), _WithoutDraws():
        yield

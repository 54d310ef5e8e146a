"""Large products in float32 on a CPU by oneDNN, where nothing is learnt.

torch gives them to MKL, which on processors of AMD uses AVX2 at most. oneDNN, which torch has for
other types, uses AVX-512 there and takes half the time.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

ROWS = 128  # with fewer, bringing the weights into oneDNN's order costs more than it gains
WEIGHTS = 1 << 16
MOST_DIMENSIONS = 5  # of a tensor that torch hands to oneDNN


def packed(x: Tensor) -> Tensor:
    """Return float32 vectors for which `linear` uses oneDNN, where torch has it.

    The result of `linear` is dense after `to_dense`.
    """
    return x.to_mkldnn() if torch.backends.mkldnn.is_available() else x


@cache
def is_faster() -> bool:
    """Return whether MKL leaves half of this processor unused."""
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and "AuthenticAMD" in processor and torch.backends.mkldnn.is_available()


class LargeProducts(TorchFunctionMode):
    """A context in which `linear` of many rows with large weights uses oneDNN.

    Results change by rounding, so the same input can differ in its last digits between a long
    batch and one of less than `ROWS` rows, as with MKL between one row and many. Where gradients
    are asked for, it changes nothing.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See torch: called in place of each of its functions."""
        if func is linear and not kwargs and _is_large(*args):
            x, *weights = args
            return linear(packed(x), *weights).to_dense()
        return func(*args, **(kwargs or {}))


def _is_large(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Return whether oneDNN takes less time, and gives what torch does.

    It reads a bias as dense, whatever its strides, and knows neither other types of tensors nor
    autocast.
    """
    tensors = [x, weight] if bias is None else [x, weight, bias]
    return (
        weight.numel() >= WEIGHTS
        and x.numel() >= ROWS * weight.shape[-1]
        and all(map(_is_known, tensors))
        and x.ndim <= MOST_DIMENSIONS
        and weight.ndim == 2
        and x.shape[-1] == weight.shape[1]
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # compilers choose products themselves
    )


def _is_known(x: Tensor) -> bool:
    """Return whether a tensor is of the type, place and layout that oneDNN takes here."""
    kind = (x.dtype, x.device.type, x.layout)
    return type(x) in (Tensor, Parameter) and kind == (torch.float32, "cpu", torch.strided)

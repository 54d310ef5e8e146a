"""Copies of tensors that a computation makes, and what the host must wait for on a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ASKED = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2")
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class Kept(TorchDispatchMode):
    """Keeps the results of operators within it; counts(name, arguments) chooses them."""

    def __init__(self, counts):
        super().__init__()
        self.counts, self.results = counts, []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        if self.counts(operator._schema.name, arguments):
            self.results.append(result)
        return result


def copies_of(compute):
    """The copies of a call that do not change the type."""
    with Kept(lambda name, arguments: name in ("aten::clone", "aten::copy_")) as copies:
        compute()
    return copies.results


def waits_of(compute):
    """How often a call needs a value or a shape from the device."""

    def counts(name, arguments):
        by_mask = name in INDEXED and any(
            x is not None and x.dtype is torch.bool for x in arguments[1]
        )
        return by_mask or name in ASKED

    with Kept(counts) as asked:
        compute()
    return len(asked.results)

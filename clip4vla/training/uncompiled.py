"""Optimisers that do not import torch's compiler, 2 s of CPU, where nothing is compiled."""

import inspect

import torch
from torch.optim import Optimizer


class Uncompiled(Optimizer):
    """An optimiser whose bookkeeping is not wrapped for torch.compile; put it before another one.

    torch wraps these methods so that its compiler leaves them alone, and the first call imports
    the compiler. Ours are called outside of what is compiled (`training.loop`).
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class AdamW(Uncompiled, torch.optim.AdamW):
    """torch's AdamW, `Uncompiled`."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))

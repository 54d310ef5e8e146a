"""The optimiser of the released code (facts 6.5), for runs that follow its numbers."""

from collections.abc import Callable
from typing import overload

import torch
from torch import nn

from clip4vla.training.uncompiled import Uncompiled


class BertAdam(Uncompiled):
    """Adam as in BERT's training: no bias correction, and each tensor's gradient clipped.

    For a parameter p with gradient g: g is scaled down to norm `clip`; m and v are its moments,
    beta1 m + (1 - beta1) g and beta2 v + (1 - beta2) g^2; then

        p <- p - lr (m / (sqrt(v) + eps) + weight_decay p).

    Moments have the type of their parameter, and every line is rounded to it: in float16 v
    underflows for gradients below about 1e-3, and the update becomes m / eps (facts 6.6).
    """

    def __init__(
        self, groups: list[dict], lr: float, betas: tuple[float, float], eps: float, clip: float
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "clip": clip})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["m"], state["v"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        m, v = state["m"], state["v"]
        beta1, beta2 = group["betas"]
        gradient = parameter.grad
        assert gradient is not None
        gradient.mul_((group["clip"] / (gradient.norm() + 1e-6)).clamp_(max=1.0))
        m.mul_(beta1).add_(gradient, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = m / (v.sqrt() + group["eps"])
        if group["weight_decay"] > 0:
            update += group["weight_decay"] * parameter
        parameter.sub_(group["lr"] * update)

"""AdamW with two learning rates, selective weight decay and a schedule (facts 6.4, 6.5, D12)."""

import torch
from torch import Tensor, nn

from clip4vla.config.run import Optimiser
from clip4vla.errors import UserError
from clip4vla.training.gather import average_gradients
from clip4vla.training.schedule import warmup_cosine


def parameter_groups(model: nn.Module, config: Optimiser, heads: tuple[str, ...]) -> list[dict]:
    """The trainable parameters of `model`, grouped by learning rate and weight decay.

    `heads`: prefixes of parameter names of modules that start from nothing; they get `head_lr`, all
    others `lr`. Tensors of one dimension (biases, LayerNorm gains, class embeddings) are not
    decayed: they scale or shift whole features, and pulling them to zero undoes what CLIP learned
    instead of regularising. Modules that start from nothing are not decayed either, as in the
    released code (which decays CLIP's LayerNorm gains, as their names slip through its filter). A
    learned temperature goes with them: at the rate of pretrained towers it would hardly move.
    Raises UserError when nothing learns.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            head = name.startswith(heads)
            decay = 0.0 if head or parameter.ndim < 2 else config.weight_decay
            groups.setdefault((head, decay), []).append(parameter)
    if not groups:
        raise UserError("no parameter learns: take something out of the run's `freeze`")
    return [
        {
            "params": groups[head, decay],
            "peak_lr": config.head_lr if head else config.lr,
            "weight_decay": decay,
        }
        for head, decay in sorted(groups)
    ]


class Updates:
    """The optimiser, its schedule over `total` updates and, for float16, the loss scaling.

    Weights and moments stay in float32 (D12): only the forward pass may run in half precision.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Optimiser,
        total: int,
        heads: tuple[str, ...] = (),
        half: bool = False,
    ):
        self.config, self.total = config, total
        self.adamw = torch.optim.AdamW(
            parameter_groups(model, config, heads),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
        )
        self.scaler = torch.amp.GradScaler(enabled=half)

    def scaled(self, loss: Tensor) -> Tensor:
        """What is to be differentiated: the loss, times the scale of float16."""
        return self.scaler.scale(loss)

    def __call__(self, step: int) -> dict[str, float]:
        """Update number `step` (from 0), from the gradients of a scaled loss, averaged over ranks.

        Returns the rate of the towers and the gradient norm.

        Raises FloatingPointError, and changes nothing, when the gradient is not finite. With
        float16 such updates are skipped instead, and the loss scale is lowered.
        """
        factor = warmup_cosine(step, self.total, self.config.warmup)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak_lr"] * factor
        parameters = [p for group in self.adamw.param_groups for p in group["params"]]
        average_gradients(parameters)
        self.scaler.unscale_(self.adamw)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip)
        if not (torch.isfinite(norm) or self.scaler.is_enabled()):
            raise FloatingPointError("the gradient is not finite")
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.adamw.zero_grad(set_to_none=True)
        return {"lr": self.config.lr * factor, "grad_norm": float(norm)}

    def state_dict(self) -> dict:
        """Moments, step counts and the loss scale."""
        return {"adamw": self.adamw.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Put the values of `state_dict` back."""
        self.adamw.load_state_dict(state["adamw"])
        self.scaler.load_state_dict(state["scaler"])

"""AdamW or the released BertAdam, with two learning rates, weight decay and a schedule.

Facts 6.4, 6.5, D12.
"""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Optimiser
from clip4vla.models.common.gather import average_gradients
from clip4vla.training.average import average_of
from clip4vla.training.bert_adam import BertAdam
from clip4vla.training.schedule import rate_factor
from clip4vla.training.uncompiled import AdamW

CLIP = ("text.", "vision.")
MIN_SCALE = 2.0**-10  # of float16; below it, gradients are not infinite because of its range
JOINED = ("fusion.", "captioner.", "probe.")  # with these the released code decays audio too


def parameter_groups(model: nn.Module, config: Optimiser, heads: tuple[str, ...]) -> list[dict]:
    """Return the trainable parameters of `model`, grouped by learning rate and weight decay.

    heads: prefixes of parameter names of randomly initialised modules. These get `head_lr` and no
    weight decay, all others `lr`. A learned temperature is among them: at the rate of pretrained
    towers it would hardly change. Raises UserError when no parameter is trainable.
    """
    decays = _released_decays(model) if config.kind == "bert_adam" else _decays
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            head = name.startswith(heads)
            decay = config.weight_decay if not head and decays(name, parameter) else 0.0
            groups.setdefault((head, decay), []).append(parameter)
    if not groups:
        raise UserError("freeze: no parameter learns. Fix: freeze fewer parameters")
    return [
        {
            "params": groups[head, decay],
            "peak_lr": config.head_lr if head else config.lr,
            "weight_decay": decay,
        }
        for head, decay in sorted(groups)
    ]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Return whether to decay a parameter: not a vector (biases, LayerNorm gains, embeddings).

    Vectors scale or shift whole features. Pulling them to zero undoes CLIP's training instead of
    regularising it.
    """
    return parameter.ndim >= 2


def _released_decays(model: nn.Module) -> Callable[[str, nn.Parameter], bool]:
    """Return the weight decay rule of the released code (facts 6.5): all of CLIP but its biases.

    Its filter of names misses CLIP's LayerNorm gains, so they are decayed. The audio tower is
    decayed only where a joint encoder, captioner or probe is trained (`prep_optimizer_clip_s2`),
    not in pre-training and retrieval by pooled vectors (`prep_optimizer_clip`).
    """
    joined = any(name.startswith(JOINED) for name, _ in model.named_parameters())
    towers = (*CLIP, "audio.") if joined else CLIP

    def decays(name: str, parameter: nn.Parameter) -> bool:
        return name.startswith(towers) and "bias" not in name

    return decays


class Updates:
    """The optimiser, its schedule over `total` updates, and the average of weights if configured.

    Weights and moments stay in float32 (D12): only the forward pass may run in half precision,
    where float16 needs loss scaling. Runs with fp16 weights (`precision: half_weights`) have
    neither float32 moments nor loss scaling, as the released code (facts 6.6).
    """

    def __init__(
        self,
        model: nn.Module,
        config: Optimiser,
        total: int,
        heads: tuple[str, ...] = (),
        float16: bool = False,
    ):
        self.config, self.total = config, total
        groups = parameter_groups(model, config, heads)
        betas = config.beta1, config.beta2
        self.optimiser: torch.optim.Optimizer
        if config.kind == "bert_adam":
            self.optimiser = BertAdam(groups, config.lr, betas, config.eps, config.grad_clip)
        else:
            # fused: one pass over memory, a quarter of the time on a CPU too
            self.optimiser = AdamW(groups, config.lr, betas, config.eps, fused=True)
        self.scaler = torch.amp.GradScaler(enabled=float16 and config.precision == "full")
        self.average = average_of(model, config)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss times the loss scale of float16, for the backward pass."""
        return self.scaler.scale(loss)

    def __call__(self, step: int) -> dict[str, float]:
        """Make update number `step` (from 0), by gradients of a scaled loss, averaged over ranks.

        Returns the learning rate of the towers and the gradient norm; with float16 the loss scale
        too. Raises FloatingPointError, and changes nothing, when the gradient is not finite. With
        float16 such updates are skipped instead, and the loss scale is lowered, until it is so
        small that the gradient must be not finite for another reason.
        """
        factor = rate_factor(self.config, step, self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak_lr"] * factor
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        average_gradients(parameters)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip)
        skips = self.scaler.is_enabled() and self.scaler.get_scale() >= MIN_SCALE
        if not (torch.isfinite(norm) or skips):
            raise FloatingPointError("the gradient is not finite")
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.after_update(step)
        measured = {"lr": self.config.lr * factor, "grad_norm": float(norm)}
        if self.scaler.is_enabled():
            measured["loss_scale"] = self.scaler.get_scale()
        return measured

    def end_epoch(self, epoch: int) -> None:
        """Let the average take in the weights at the end of an epoch, counted from 1."""
        if self.average is not None:
            self.average.after_epoch(epoch)

    def averaged(self) -> contextlib.AbstractContextManager:
        """Return a context in which the model has averaged weights, if the run averages them."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def keep_average(self) -> None:
        """Leave the averaged weights in the model, at the end of a training."""
        if self.average is not None:
            self.average.keep()

    def state_dict(self) -> dict:
        """Return moments, step counts, the loss scale and the average."""
        state = {"optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict()}
        return state if self.average is None else state | {"average": self.average.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore the values of `state_dict`."""
        saved = state["optimiser"]
        groups = zip(self.optimiser.param_groups, saved["param_groups"], strict=True)
        for group, saved_group in groups:
            if "fused" in group:  # older checkpoints of a CPU have another
                saved_group["fused"] = group["fused"]
        self.optimiser.load_state_dict(saved)
        if state["scaler"]:  # empty where the checkpoint was written without float16
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

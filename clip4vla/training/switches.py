"""Switches of speed and memory, which do not change what a training learns.

None of them enters a run key, and a run may resume with other switches.
"""

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch

from clip4vla.cache.clips import SAMPLED
from clip4vla.common.errors import UserError
from clip4vla.common.log import log
from clip4vla.models.common.clip_model import ClipModel

RECOMPILE_LIMIT = 64  # variants of a block: widths, masks, with and without gradients


@dataclass(frozen=True)
class Switches:
    """Switches at the top level of the config.

    frozen_cache: compute the features of frozen towers once, for all epochs and runs
    (`clip4vla.inference.frozen`). activation_checkpointing: keep only the input of a block, and
    compute the rest again in the backward pass. compile: torch.compile of every block; "auto": on a
    GPU, and only where a compiler works.
    check_every: verify the sha256 of one in `check_every` clips that are read
    (`ClipCache.spot_check`).
    """

    frozen_cache: bool = True
    activation_checkpointing: bool = False
    compile: bool | Literal["auto"] = False
    check_every: int = SAMPLED

    def apply(self, model: ClipModel, device: torch.device) -> None:
        """Apply the switches to a model. UserError where it cannot be compiled, as asked."""
        if self.activation_checkpointing:
            checkpoint_activations(model)
        if self._compiles(device):
            compile_blocks(model)

    def _compiles(self, device: torch.device) -> bool:
        """Return whether to compile. "auto" warns where a GPU has no compiler."""
        if not self.compile or (self.compile == "auto" and device.type != "cuda"):
            return False
        try:
            check_compiler(device)
        except UserError as error:
            if self.compile != "auto":
                raise
            log.warning(f"this run trains slower, without compiled blocks. {error}")
            return False
        return True


def checkpoint_activations(model: ClipModel) -> None:
    """Recompute blocks of the towers and of the joint encoder in the backward pass.

    Gradients are equal bit for bit, because dropout draws the same values again. A frozen tower
    keeps no activations anyway.
    """
    for stack in model.checkpointed():
        stack.grad_checkpointing = True  # type: ignore[assignment]


def compile_blocks(model: ClipModel, backend: str = "inductor") -> None:
    """Compile every block on its own, in place, so that names in the state dict do not change.

    Blocks of one kind share the compiled code. Numbers of frames, segments and words are symbols
    in it (`dynamic`), because they differ from batch to batch. Dropout draws the same values as
    without compilation.
    """
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._inductor.config.fallback_random = True
    for block in model.blocks():
        block.compile(dynamic=True, backend=backend)


def check_compiler(device: torch.device) -> None:
    """Compile a small function. Raises UserError where that fails."""

    def probe(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() + 1).sum()

    try:
        with contextlib.redirect_stderr(None):
            torch.compile(probe, fullgraph=True)(torch.ones(64, device=device))
    except Exception as error:  # any error of the compiler, its driver or the linker
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        needed = "a C++ compiler (g++)"
        if device.type == "cuda":
            needed = "triton, a C compiler (gcc) and Python's headers"
        raise UserError(
            f"compile: torch.compile does not work on this machine: {reason.strip()[:200]}. Fix: "
            f"install {needed}, such as by `module load gcc`, or set compile: false, which changes "
            "results by rounding only"
        ) from None
    finally:
        torch._dynamo.reset()

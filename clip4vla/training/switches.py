"""Switches of speed and memory: they change how a training runs, never what it learns.

None of them enters a run key, and a run may go on with others than it began with.
"""

import contextlib
from dataclasses import dataclass

import torch

from clip4vla.cache.clips import SAMPLED
from clip4vla.common.errors import UserError
from clip4vla.models.common.clip_model import ClipModel

RECOMPILE_LIMIT = 64  # variants of a block: widths, masks, with and without gradients


@dataclass(frozen=True)
class Switches:
    """What the config says at its top level.

    frozen_cache: what frozen towers say of a clip is computed once, for all epochs and runs
    (`clip4vla.inference.frozen`). activation_checkpointing: of a block only its input is kept, the
    rest is computed again in the backward pass. compile: torch.compile of every block. check_every:
    of so many clips that are read, one is compared with its sha256 (`ClipCache.spot_check`).
    """

    frozen_cache: bool = True
    activation_checkpointing: bool = False
    compile: bool = False
    check_every: int = SAMPLED

    def apply(self, model: ClipModel, device: torch.device) -> None:
        """Prepare a model for training. UserError where it cannot be compiled on this machine."""
        if self.activation_checkpointing:
            checkpoint_activations(model)
        if self.compile:
            check_compiler(device)
            compile_blocks(model)


def checkpoint_activations(model: ClipModel) -> None:
    """Recompute blocks of the towers and of the joint encoder in the backward pass.

    Gradients keep their bits: dropout draws the same again. A frozen tower keeps nothing anyway.
    """
    for stack in model.checkpointed():
        stack.grad_checkpointing = True  # type: ignore[assignment]  # any


def compile_blocks(model: ClipModel, backend: str = "inductor") -> None:
    """Compile every block on its own, in place: names in the state dict stay as they are.

    Blocks of one kind share what is compiled. Numbers of frames, segments and words are symbols in
    it (`dynamic`), as nearly every batch has others. Dropout draws what it draws uncompiled.
    """
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._inductor.config.fallback_random = True
    for block in model.blocks():
        block.compile(dynamic=True, backend=backend)


def check_compiler(device: torch.device) -> None:
    """Compile something small. Raises UserError with the remedy where that fails."""

    def probe(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() + 1).sum()

    try:
        with contextlib.redirect_stderr(None):
            torch.compile(probe, fullgraph=True)(torch.ones(64, device=device))
    except Exception as error:  # whatever the compiler, its driver or the linker raise
        why = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        needed = "a C++ compiler (g++)"
        if device.type == "cuda":
            needed = "triton, a C compiler (gcc) and Python's headers"
        raise UserError(
            f"compile: torch.compile does not work on this machine: {why.strip()[:200]}; it needs "
            f"{needed}, such as `module load gcc`; or set compile: false, which changes no result"
        ) from None
    finally:
        torch._dynamo.reset()

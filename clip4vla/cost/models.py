"""Operations of the models of runs: those that were counted before, and others counted now."""

from collections.abc import Callable, Set
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clip4vla.common.files import canonical_json, sha256_of
from clip4vla.config.run import Evaluate, Finetune, Pretrain, Run, Substitute
from clip4vla.cost.units import ClipSize, Scoring

if TYPE_CHECKING:
    from clip4vla.cost.operations import Operations

DATA = {  # fields of runs that do not change the operations of a clip
    *("code_version", "seed", "start", "substitution", "text_substitution", "held_out", "cache"),
    *("sources", "train", "val", "test", "queries", "donors", "selection", "variants", "scale"),
    *("missing_audio", "test_missing_audio", "masking", "mean", "optimiser", "sampling"),
    "test_frames",
}


class Models:
    """Operations of the models of runs; equal questions are answered once.

    known: the answers so far, as JSON has them, by the hash of their question.
    """

    def __init__(self, known: dict[str, Any] | None = None) -> None:
        self.known = {} if known is None else known

    @cached_property
    def _operations(self) -> "Operations":
        from clip4vla.cost.operations import Operations  # loads torch, which known answers need not

        return Operations()

    def step(self, run: Pretrain | Finetune, clip: ClipSize, size: int) -> float:
        """Return the operations of a training step of `size` samples, forward and backward."""
        operations: float = self._once(
            lambda: self._operations.step(run, clip, size),
            run,
            "step",
            clip,
            size,
            run.optimiser.microbatch,
            unread={"decoding"},
        )
        return operations

    def frozen(self, run: Pretrain, clip: ClipSize) -> tuple[float, float]:
        """Return operations of frames and of a caption that are computed once; 0 if none are."""
        frames, caption = self._once(
            lambda: self._operations.frozen(run, clip), run, "frozen", clip
        )
        return frames, caption

    def donors(self, run: Substitute, clip: ClipSize) -> float:
        """Return the operations of a clip's vector, by which donors are found."""
        operations: float = self._once(
            lambda: self._operations.donors(run, clip), run, "donors", clip
        )
        return operations

    def scoring(self, run: Finetune | Evaluate, clip: ClipSize) -> Scoring:
        """Return the operations of scoring a split, the same in validation and evaluation."""
        asked = _as_evaluation(run)
        parts = self._once(
            lambda: asdict(self._operations.scoring(asked, clip)), asked, "scoring", clip
        )
        return Scoring(**parts)

    def _once(
        self,
        count: Callable[[], object],
        run: Run,
        *about: object,
        unread: Set[str] = frozenset(),
    ) -> Any:
        """Return `count()`, once for equal runs but for the fields of `DATA` and `unread`."""
        question = [run.model_dump(exclude=DATA | unread), *map(str, about)]
        key = sha256_of(canonical_json(question))
        if key not in self.known:
            self.known[key] = count()
        return self.known[key]


def _as_evaluation(run: Finetune | Evaluate) -> Evaluate:
    """Return an evaluation that scores clips as a run does."""
    inputs = run.inputs.without_draws()
    if isinstance(run, Evaluate):
        return run.model_copy(update={"inputs": inputs})
    return Evaluate(
        start=None,
        task=run.task,
        modalities=run.modalities,
        test=run.train,
        model=run.model,
        inputs=inputs,
        decoding=run.decoding,
    )

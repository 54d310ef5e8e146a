"""The seam between model families and the rest: what a family gives, and which families exist.

A family is a folder under `clip4vla/models/` with a module `family` that defines `FAMILY`, and one
line in `clip4vla.config.families`. Training, inference and
evaluation know families only through this module.
"""

import importlib
from functools import cache
from pathlib import Path
from typing import Protocol

from clip4vla.config.families import FAMILIES
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.sections import Inputs, Modality, Model
from clip4vla.config.settings import Head
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.common.task import Task


class Family(Protocol):
    """Everything that differs between model families."""

    def build(
        self,
        config: Model,
        weights: dict[str, Path],
        head: Head = None,
        n_classes: int | None = None,
        seed: int = 0,
        inputs: Inputs | None = None,
    ) -> ClipModel:
        """Build a model with its first weights; equal arguments give equal weights."""

    def empty(self, config: Model, head: Head, n_classes: int | None, inputs: Inputs) -> ClipModel:
        """Build a model whose parameters are unset, for a file that fills all of them."""

    def load(self, model: ClipModel, path: Path, with_head: bool) -> None:
        """Fill a model from a file of weights. UserError for a file that does not fit.

        with_head: the head of the model's task comes from the file, too; else it keeps its first
        weights, and a head in the file is left out.
        """

    def prepare(self, model: ClipModel, run: Pretrain | Finetune) -> None:
        """Set which parameters learn, and in which precision the weights are kept."""

    def scorer(self, model: ClipModel, config: Model, modalities: list[Modality]) -> Scorer:
        """Return how texts and clips of these modalities are compared."""

    def task(self, model: ClipModel, run: Pretrain | Finetune) -> Task:
        """Return the task that a run trains the model for."""


@cache
def family_of(name: str) -> Family:
    """Return the family of that name, which the config has checked."""
    family: Family = importlib.import_module(FAMILIES[name]).FAMILY
    return family

"""The seam between model families and the rest: what a family gives, and which families exist.

A family is a folder under `clip4vla/models/` with a module `family` that defines `FAMILY`, and one
line in `clip4vla.config.families`. All rooms below know families only through this module.
"""

import importlib
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from clip4vla.config.families import FAMILIES, FamilyModel
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.sections import Inputs, Modality, TaskName
from clip4vla.models.common.archives import WeightFile
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.conversion import Conversion
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.common.task import Task

Tensors = dict[str, Tensor]


class Family(Protocol):
    """Everything that differs between model families."""

    def build(
        self,
        config: FamilyModel,
        weights: dict[str, Path],
        task: TaskName | None = None,
        n_classes: int | None = None,
        seed: int = 0,
        inputs: Inputs | None = None,
    ) -> ClipModel:
        """Build a model with its first weights; equal arguments give equal weights."""

    def empty(
        self, config: FamilyModel, task: TaskName | None, n_classes: int | None, inputs: Inputs
    ) -> ClipModel:
        """Build a model whose parameters are unset, for a file that fills all of them."""

    def load(self, model: ClipModel, path: Path, with_head: bool) -> None:
        """Fill a model from a file of weights. UserError for a file that does not fit.

        with_head: the head of the model's task comes from the file, too; else it keeps its first
        weights, and a head in the file is left out.
        """

    @property
    def SOURCES(self) -> str:
        """Whose files it imports, for messages."""

    def kind_of(self, tensors: Tensors) -> str | None:
        """Return which code wrote a file of these tensors; "ours": this project; None: unknown."""

    def renamed(self, path: Path, kind: str, tensors: Tensors) -> Tensors:
        """Return the tensors of a file of a known kind under the names of the model."""

    def architecture_of(self, path: Path, tensors: Tensors) -> str:
        """Return the architecture with the shapes of these tensors, under our names. UserError."""

    def convert(
        self,
        path: Path,
        file: WeightFile,
        fresh: tuple[str, ...],
        drop: tuple[str, ...],
        clip: Path | None,
        given: dict[str, Any],
    ) -> Conversion:
        """Build the model that a file of a known kind fills.

        fresh: parts, or parts of these (`fusion.similarity`), that take nothing from the file and
        are initialised as the family does; those that `clip`, a file of CLIP alone, has are taken
        from it. drop: parts of the file, by our names or its own, that the model does not get.
        given: settings, nested, that win over those that the tensors tell. UserError for a mistake
        in any of these.
        """

    def released_names(self, tensors: Tensors) -> Tensors:
        """Return tensors of the model under the released names. UserError if there are none."""

    def check_tag(self, where: str, tagged: str, config: FamilyModel) -> None:
        """Refuse a tag of open_clip that does not fit the model. where: its key in the config."""

    def prepare(self, model: ClipModel, run: Pretrain | Finetune) -> None:
        """Set which parameters learn, and in which precision the weights are kept."""

    def scorer(self, model: ClipModel, config: FamilyModel, modalities: list[Modality]) -> Scorer:
        """Return how texts and clips of these modalities are compared."""

    def task(self, model: ClipModel, run: Pretrain | Finetune) -> Task:
        """Return the task that a run trains the model for."""


@cache
def family_of(name: str) -> Family:
    """Return the family of that name, which the config has checked."""
    family: Family = importlib.import_module(f"{FAMILIES[name]}.family").FAMILY
    return family

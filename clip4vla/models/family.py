"""The interface of model families; all rooms below this one know families only through it.

A family is a folder under `clip4vla/models/` with a module `family` that defines `FAMILY`, and one
line in `clip4vla.config.families`.
"""

import importlib
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from clip4vla.config.families import FAMILIES, FamilyModel
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.sections import Inputs, Modality, TaskName
from clip4vla.models.common.archives import WeightFile
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.conversion import Conversion
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.common.task import Task
from clip4vla.models.common.tensor_files import Tensors


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
        """Build a model with its initial weights; equal arguments give equal weights."""

    def empty(
        self, config: FamilyModel, task: TaskName | None, n_classes: int | None, inputs: Inputs
    ) -> ClipModel:
        """Build a model with uninitialised parameters, for a file that fills all of them."""

    def load(self, model: ClipModel, path: Path, with_head: bool) -> None:
        """Load a file of weights into a model. UserError for a file that does not fit.

        with_head: load the head of the model's task, too; otherwise it keeps its initial weights,
        and a head in the file is ignored.
        """

    @property
    def SOURCES(self) -> str:
        """Return a list of the supported kinds of files, for messages."""

    def kind_of(self, tensors: Tensors) -> str | None:
        """Return the code that wrote these tensors: "ours" (this project), ...; None: unknown."""

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
        overrides: dict[str, Any],
    ) -> Conversion:
        """Build the model of a file of a known kind.

        fresh: parts, or parts of these (`fusion.similarity`), that are not loaded from the file:
        they come from `clip`, a file of CLIP alone, if it has them, and are initialised otherwise.
        drop: parts of the file, by our names or its own, that are not loaded. overrides: nested
        settings that take precedence over those inferred from the tensors. UserError for a mistake
        in any of these.
        """

    def released_names(self, tensors: Tensors) -> Tensors:
        """Return the model's tensors under the released names. UserError without such names."""

    def check_tag(self, where: str, tagged: str, config: FamilyModel) -> None:
        """Refuse a tag of open_clip that does not fit the model. where: its key in the config."""

    def prepare(self, model: ClipModel, run: Pretrain | Finetune) -> None:
        """Set which parameters learn, and in which precision the weights are kept."""

    def scorer(
        self,
        model: ClipModel,
        config: FamilyModel,
        modalities: list[Modality],
        rescores: bool = False,
    ) -> Scorer:
        """Return the scorer that compares texts with clips of these modalities.

        rescores: keep the features that `SecondScorer.rescored` reads.
        """

    def ranker(self, model: ClipModel, config: FamilyModel, modalities: list[Modality]) -> Scorer:
        """Return the scorer that ranks many clips by `vectors`: `scorer`, or one in its place.

        Where `scorer` compares pairs jointly, its scores are for the first clips of this ranking.
        """

    def task(self, model: ClipModel, run: Pretrain | Finetune) -> Task:
        """Return the task that a run trains the model for."""


@cache
def family_of(name: str) -> Family:
    """Return the family of a name, which the config has validated."""
    family: Family = importlib.import_module(f"{FAMILIES[name]}.family").FAMILY
    return family

"""A foreign file of weights, understood as a model of ours."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.config.settings import Settings
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.coverage import Coverage


@dataclass(frozen=True)
class Conversion:
    """A file that was read and compared with the model that `fill` completes.

    kind: which code wrote the file; left_out: what of the file is no weight; assumed: one line for
    each setting that the file does not tell; origin: for the metadata of the file that will be
    written; fresh: parts that are initialised; copy: copies the tensors into the model.
    """

    path: Path
    kind: str
    left_out: tuple[str, ...]
    model: ClipModel
    settings: Settings
    coverage: Coverage
    assumed: list[str]
    origin: dict[str, Any]
    fresh: tuple[str, ...]
    copy: Callable[[], None]

    def fill(self) -> None:
        """Copy the tensors into the model. UserError unless they fill all of it."""
        if not self.coverage.complete:
            raise UserError(
                f"{self.path}: {self.coverage.summary()}. Fix: name parts to initialise with "
                f"--fresh ({', '.join(self.settings.model.PARTS)}), parts of the file to leave out "
                "with --drop, or correct the settings with --set"
            )
        self.copy()

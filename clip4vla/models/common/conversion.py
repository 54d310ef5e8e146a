"""The conversion of a file of weights to a model of this project."""

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
    """A file that was read and compared with a model, into which `fill_model` loads it.

    kind: the code that wrote the file; left_out: entries of the file that are not weights; assumed:
    one line for each setting that cannot be inferred from the file; origin: metadata of the file
    that will be written; fresh: parts that are initialised, not loaded; copy: copies the tensors
    into the model.
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

    def fill_model(self) -> None:
        """Copy the tensors into the model. UserError unless they fit it completely."""
        if not self.coverage.complete:
            raise UserError(
                f"{self.path}: {self.coverage.summary()}. Fix: name parts to initialise with "
                f"--fresh ({', '.join(self.settings.model.PARTS)}), parts of the file to leave out "
                "with --drop, or correct the settings with --set"
            )
        self.copy()

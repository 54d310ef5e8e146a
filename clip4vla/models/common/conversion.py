"""The conversion of a file of weights to a model of this project."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.config.settings import Settings
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.coverage import Coverage
from clip4vla.models.common.parts import is_in_parts
from clip4vla.models.common.tensor_files import Tensors


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


def without_dropped(
    path: Path, tensors: Tensors, renamed: Callable[[Tensors], Tensors], drop: tuple[str, ...]
) -> Tensors:
    """Return a file's tensors under our names, without parts dropped by its names or ours.

    UserError for a part that the file does not have.
    """
    named = renamed({k: v for k, v in tensors.items() if not is_in_parts(k, drop)})
    for name in drop:
        if not any(is_in_parts(k, (name,)) for k in (*tensors, *named)):
            parts = ", ".join(sorted({k.split(".", 1)[0] for k in (*tensors, *named)}))
            raise UserError(f"--drop {name}: {path} has no such part. Fix: choose from {parts}")
    return {k: v for k, v in named.items() if not is_in_parts(k, drop)}


def check_fresh(
    path: Path, fresh: tuple[str, ...], model: ClipModel, parts: tuple[str, ...]
) -> None:
    """Raise UserError for parts that do not exist or that the model does not have."""
    for part in fresh:
        if part.split(".", 1)[0] not in parts:
            raise UserError(f"--fresh {part}: unknown part. Fix: choose from {', '.join(parts)}")
        if not any(is_in_parts(name, (part,)) for name, _ in model.named_parameters()):
            raise UserError(
                f"--fresh {part}: the model of {path} does not have it; a run that needs it "
                f"initialises it. Fix: remove --fresh {part}"
            )

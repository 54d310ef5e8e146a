"""The part of a model that a file of weights fills: found, missing, left over, misshapen."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coverage:
    """Names of tensors, by what became of them; `unusable` ones hold no finite floats."""

    expected: list[str]
    missing: list[str]
    left_over: list[str]
    misshapen: list[str]
    unusable: list[str]

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model is there and every tensor of the file has a place."""
        return not (self.missing or self.left_over or self.misshapen or self.unusable)

    @property
    def found(self) -> int:
        """Tensors of the model that the file fills."""
        return len(self.expected) - len(self.missing) - len(self.misshapen) - len(self.unusable)

    def problems(self) -> dict[str, list[str]]:
        """The names of what is wrong, by kind; empty where nothing is."""
        kinds = {
            "missing": self.missing,
            "left over": self.left_over,
            "misshapen": self.misshapen,
            "not finite floating point": self.unusable,
        }
        return {kind: names for kind, names in kinds.items() if names}

    def summary(self) -> str:
        """One line: counts, and the first names of what is wrong."""
        line = f"{len(self.expected)} tensors expected, {self.found} found"
        details = "; ".join(f"{_some(names)} {kind}" for kind, names in self.problems().items())
        return f"{line}: {details}" if details else line


def compare(
    wanted: dict[str, Tensor], given: dict[str, Tensor], first_rows: dict[str, int]
) -> Coverage:
    """Hold the tensors of a file against the parameters of a model.

    first_rows: by name, how many rows of a larger parameter the file may have; the others keep
    their initial values.
    """
    shared = [name for name in wanted if name in given]
    misshapen, unusable = [], []
    for name in shared:
        value, shape = given[name], list(given[name].shape)
        if shape and shape[0] == first_rows.get(name):
            shape[0] = len(wanted[name])
        if shape != list(wanted[name].shape):
            misshapen.append(f"{name} {shape} for {list(wanted[name].shape)}")
        elif not value.is_floating_point():
            unusable.append(f"{name} is {value.dtype}")
        elif not torch.isfinite(value).all():
            unusable.append(f"{name} has NaN or infinite values")
    return Coverage(
        expected=list(wanted),
        missing=[name for name in wanted if name not in given],
        left_over=[name for name in given if name not in wanted],
        misshapen=misshapen,
        unusable=unusable,
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"

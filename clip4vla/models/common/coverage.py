"""Comparison of a file of weights with the parameters of a model."""

from dataclasses import dataclass

import torch

from clip4vla.models.common.tensor_files import Tensors


@dataclass(frozen=True)
class Coverage:
    """Names of tensors by the outcome of the comparison.

    expected: all of the model; left_over: in the file only; unusable: not finite floating point.
    """

    expected: list[str]
    missing: list[str]
    left_over: list[str]
    misshapen: list[str]
    unusable: list[str]

    @property
    def complete(self) -> bool:
        """Return whether the file has exactly the model's tensors, usable and in their shapes."""
        return not (self.missing or self.left_over or self.misshapen or self.unusable)

    @property
    def found(self) -> int:
        """Return the number of the model's tensors that the file provides."""
        return len(self.expected) - len(self.missing) - len(self.misshapen) - len(self.unusable)

    def problems(self) -> dict[str, list[str]]:
        """Return the names of problematic tensors by kind of problem; {} where there are none."""
        kinds = {
            "missing": self.missing,
            "left over": self.left_over,
            "misshapen": self.misshapen,
            "not finite floating point": self.unusable,
        }
        return {kind: names for kind, names in kinds.items() if names}

    def summary(self) -> str:
        """Return one line: counts, and the first names of each kind of problem."""
        line = f"{len(self.expected)} tensors expected, {self.found} found"
        details = "; ".join(f"{_some(names)} {kind}" for kind, names in self.problems().items())
        return f"{line}: {details}" if details else line


def compare(parameters: Tensors, tensors: Tensors, first_rows: dict[str, int]) -> Coverage:
    """Compare the tensors of a file with the parameters of a model.

    first_rows: by name, the number of first rows of a parameter that the file may have instead of
    all; the other rows keep their initial values.
    """
    shared = [name for name in parameters if name in tensors]
    misshapen, unusable = [], []
    for name in shared:
        value, shape = tensors[name], list(tensors[name].shape)
        if shape and shape[0] == first_rows.get(name):
            shape[0] = len(parameters[name])
        if shape != list(parameters[name].shape):
            misshapen.append(f"{name} {shape} for {list(parameters[name].shape)}")
        elif value.is_floating_point() != parameters[name].is_floating_point():
            unusable.append(f"{name} is {value.dtype}")
        elif not torch.isfinite(value).all():
            unusable.append(f"{name} has NaN or infinite values")
    return Coverage(
        expected=list(parameters),
        missing=[name for name in parameters if name not in tensors],
        left_over=[name for name in tensors if name not in parameters],
        misshapen=misshapen,
        unusable=unusable,
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"

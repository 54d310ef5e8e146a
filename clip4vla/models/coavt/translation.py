"""Tensors of another project's file under our names."""

from typing import NamedTuple

from clip4vla.models.common.tensor_files import Tensors


class Translation(NamedTuple):
    """Tensors of a file under our names, and what the file and our model have alone.

    Unknown names of the file stay unchanged among the tensors, so that loading refuses them.
    unused: names in the file of known tensors that our model does not have; fresh: names in our
    model of parameters that such a file never has, and which keep their initial values.
    """

    tensors: Tensors
    unused: tuple[str, ...]
    fresh: tuple[str, ...] = ()

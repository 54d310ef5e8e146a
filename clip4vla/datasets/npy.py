"""Read lists of texts in numpy's file format, as HGR publishes its splits, and never a pickle."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clip4vla.common.errors import UserError
from clip4vla.datasets.clip import Where, shown

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_LARGEST = 1 << 26  # bytes; a list of ids is far smaller
_PLAIN = "save the ids as plain text instead, one a line"


def npy_lines(name: str, path: Path) -> Iterator[tuple[Where, str]]:
    """Yield the texts of a one-dimensional array of strings or bytes, as (where, text).

    Raises UserError for anything else. An array of objects is a pickle, which could run code when
    it is loaded. It is refused, with the command that turns a trusted file into a plain list.
    """
    for number, text in enumerate(_array(name, path).tolist()):
        where = Where(path, "entry", number)
        if isinstance(text, bytes):
            if not text.isascii():
                raise UserError(f"{name}: {where}: {shown(text)} is not ASCII. Fix: {_PLAIN}")
            text = text.decode("ascii")
        yield where, text


def _array(name: str, path: Path) -> np.ndarray:
    if path.stat().st_size > _LARGEST:
        raise UserError(
            f"{name}: {path}: larger than {_LARGEST >> 20} MiB, too large for a list of ids. "
            f"Fix: {_PLAIN}"
        )
    with open(path, "rb") as stream:
        try:
            shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        except Exception as error:  # the header is Python text: its parser raises many kinds
            raise UserError(
                f"{name}: {path}: invalid numpy file ({shown(str(error))}). Fix: {_PLAIN}"
            ) from None
        data = stream.read()
    if dtype.hasobject:
        raise UserError(
            f"{name}: {path}: holds Python objects, a pickle that could run code. Fix: if you "
            'trust the file, convert it once: python -c "import numpy as np; np.savetxt('
            f"'{path.with_suffix('.txt').name}', np.load('{path.name}', allow_pickle=True), "
            "fmt='%s')\""
        )
    if (
        dtype.kind not in "US"
        or len(shape) != 1
        or not data
        or math.prod(shape) * dtype.itemsize != len(data)
    ):
        raise UserError(
            f"{name}: {path}: holds {dtype} of shape {shown(shape)}, not one row of texts. "
            f"Fix: {_PLAIN}"
        )
    try:
        return np.frombuffer(data, dtype)
    except ValueError as error:
        raise UserError(
            f"{name}: {path}: invalid array ({shown(str(error))}). Fix: {_PLAIN}"
        ) from None

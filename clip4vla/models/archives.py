"""Read the tensors of a weight file without running anything that is in it.

safetensors files and state dicts saved by torch are read as such. OpenAI publishes CLIP as a
TorchScript archive, which holds code; here only its data are read: the classes that it names are
replaced by empty ones, and its code is never opened.
"""

import io
import pickle
import zipfile
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from clip4vla.errors import UserError

SCRIPT_CLASSES = "__torch__."  # classes that an archive defines itself
SCRIPT_LISTS = "torch.jit._pickle.build_"  # how an archive writes a typed list
UNREADABLE = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    RuntimeError,
)


class _Node:
    """Stands for a scripted module: an object with attributes and no behaviour."""


def _as_list(values):
    return values


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file, a torch state dict or a TorchScript archive, on the CPU.

    Raises UserError for anything else, OSError if the file cannot be opened.
    """
    path = Path(path)
    with open(path, "rb") as stream:
        start = stream.read(9)
    try:
        if start[8:] == b"{":
            return load_file(path)
        if _is_torchscript(path):
            return _read_torchscript(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(
            f"{path}: cannot be read as weights ({_first_line(error)}); give a safetensors file, a "
            "state dict saved by torch, or OpenAI's CLIP archive"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"{path}: does not hold a plain state dict; save model.state_dict() alone and give that"
        )
    return state


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    plain = _without_code(path)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(plain)
    stand_ins = []
    for name in names:
        if name.startswith(SCRIPT_CLASSES):
            stand_ins.append((_Node, name))
        elif name.startswith(SCRIPT_LISTS):
            stand_ins.append((_as_list, name))
        else:
            raise UserError(f"{path}: names {name}, which a CLIP archive does not need; refused")
    plain.seek(0)
    with torch.serialization.safe_globals(stand_ins):
        root = torch.load(plain, map_location="cpu", weights_only=True)
    return dict(_tensors_below(root, ""))


def _without_code(path: Path) -> io.BytesIO:
    """The archive as an ordinary torch file: data.pkl and its storages, and nothing else."""
    plain = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(plain, "w") as copy:
        for entry in archive.infolist():
            inner = entry.filename.partition("/")[2]
            if inner in ("data.pkl", "version", "byteorder") or inner.startswith("data/"):
                copy.writestr(entry.filename, archive.read(entry))
    plain.seek(0)
    return plain


def _tensors_below(node, prefix: str):
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            yield prefix + name, value.detach()
        elif isinstance(value, _Node):
            yield from _tensors_below(value, f"{prefix}{name}.")

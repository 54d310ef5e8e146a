"""Read the tensors of a weight file without executing code from it.

Supported are safetensors files and files saved by torch: a state dict, or a training state with a
state dict. OpenAI publishes CLIP as a TorchScript archive, which contains code. Only its data are
read: the classes that it names are replaced by empty ones, and its code is never opened.
"""

import io
import pickle
import re
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.models.common.forms import FORMS, SAFETENSORS, ZIP, form_of
from clip4vla.models.common.tensor_files import Tensors

ARCHIVE = "TorchScript archive"  # `WeightFile.layout` of OpenAI's files
SCRIPT_CLASSES = "__torch__."  # prefix of the classes that an archive defines
SCRIPT_LISTS = "torch.jit._pickle.build_"  # prefix of the functions that restore typed lists
STATES = ("state_dict", "model_state_dict", "model")  # keys of the weights in a training state
TRAINING = {  # other keys of a training state
    *("epoch", "global_step", "step", "name", "arch", "loss", "best_score", "args", "config"),
    *("optimizer", "optimizer_state_dict", "optimizer_state", "scheduler", "scaler"),
}
WRAPPER = "module."  # prefix of every name that distributed training saves
PACKING = 64 * 2**20  # bytes that compression may save: torch compresses code, not weights
NAMED = re.compile(r"GLOBAL ([^\s'\"]+)")  # the refused class in torch's message
USUAL = (  # classes that training code often saves with weights
    *("argparse.Namespace", "types.SimpleNamespace", "collections.", "numpy.", "pathlib."),
    *("omegaconf.", "yacs.", "easydict.", "torch."),
)
SAVE_STATE_DICT = (
    'if you trust the file, save only its state dict: python -c "import torch; s = torch.load('
    "{path!r}, weights_only=False); torch.save(s.get('state_dict', s.get('model', s)), "
    "'weights.pt')\""
)


@dataclass(frozen=True)
class WeightFile:
    """The content of a file. left_out: names of other entries, such as an optimiser's state."""

    layout: str
    tensors: Tensors
    left_out: tuple[str, ...] = ()


class _Node:
    """Placeholder for a scripted module: attributes without behaviour."""


def _as_list(values: list[Any]) -> list[Any]:
    return values


def read_tensors(path: str | Path) -> Tensors:
    """Return the named tensors of a file, on the CPU; see `read_weight_file`."""
    return read_weight_file(path).tensors


def read_weight_file(path: str | Path) -> WeightFile:
    """Read a safetensors file, a file saved by torch or a TorchScript archive, on the CPU.

    Raises UserError for any other file, and for one that names code or claims to contain more than
    its size allows; OSError if it cannot be opened.
    """
    path = Path(path)
    form = form_of(path)
    try:
        file = _read(path, form)
    except UserError:
        raise
    except Exception as error:  # readers raise almost any error on malicious bytes
        raise _refusal(path, error) from None
    _check_extent(path, file.tensors)
    return file


def _read(path: Path, form: str) -> WeightFile:
    if form == SAFETENSORS:
        return WeightFile(SAFETENSORS, load_file(path))
    if form == ZIP:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        _check_claims(path, entries)
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            return WeightFile(ARCHIVE, _read_torchscript(path))
    return _weights_in(path, torch.load(path, map_location="cpu", weights_only=True))


def _refusal(path: Path, error: Exception) -> UserError:
    """Return our error for a reader's, because torch's message suggests running the file's code."""
    if named := NAMED.search(str(error)):
        name = ascii(named[1])[1:-1][:80]
        fix = SAVE_STATE_DICT.format(path=str(path)) if name.startswith(USUAL) else FORMS
        return UserError(f"{path}: contains {name}, which may run code. Fix: {fix}")
    if isinstance(error, pickle.UnpicklingError):
        why = "it is corrupt, or contains more than tensors and plain values"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
        why = textwrap.shorten(ascii(text)[1:-1], 120, placeholder=" ...")
    return UserError(f"{path}: cannot be read as weights: {why}. Fix: {FORMS}")


def _check_claims(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raise UserError, before unpacking, for an archive that claims to be far larger inside."""
    claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if claimed > size + PACKING:
        raise UserError(
            f"{path}: {size:,} bytes that claim to unpack to {claimed:,}, which torch never "
            "writes. Fix: download the file again from its publisher"
        )


def _check_extent(path: Path, tensors: Tensors) -> None:
    """Raise UserError for a tensor larger than the file, such as an expanded view."""
    size = path.stat().st_size
    for name, value in tensors.items():
        if value.numel() * value.element_size() > size:
            raise UserError(
                f"{path}: {name} claims {list(value.shape)}, more than a file of {size:,} bytes "
                "can hold. Fix: download the file again from its publisher"
            )


def _weights_in(path: Path, saved: Any) -> WeightFile:
    """Return the state dict in an object that torch saved, with the names of other entries."""
    layout, beside = "state dict", ()
    if isinstance(saved, dict):
        for name in STATES:
            if isinstance(saved.get(name), dict):
                layout, beside = "state of a training", tuple(k for k in saved if k != name)
                saved = saved[name]
                break
        else:
            among = tuple(
                k for k, v in saved.items() if k in TRAINING and not isinstance(v, Tensor)
            )
            if among and len(among) < len(saved):
                layout, beside = "state of a training", among
                saved = {name: value for name, value in saved.items() if name not in among}
    if not isinstance(saved, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in saved.items()
    ):
        raise UserError(
            f"{path}: does not contain a plain state dict. Fix: save only model.state_dict()"
        )
    if all(name.startswith(WRAPPER) for name in saved):
        saved = {name.removeprefix(WRAPPER): value for name, value in saved.items()}
    return WeightFile(layout, dict(saved), tuple(map(str, beside)))


def _read_torchscript(path: Path) -> Tensors:
    plain = _without_code(path)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(plain)
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    for name in names:
        if name.startswith(SCRIPT_CLASSES):
            stand_ins.append((_Node, name))
        elif name.startswith(SCRIPT_LISTS):
            stand_ins.append((_as_list, name))
        else:
            raise UserError(
                f"{path}: names {name}, which no archive of CLIP needs. Fix: download the file "
                "again from its publisher"
            )
    plain.seek(0)
    with torch.serialization.safe_globals(stand_ins):
        root = torch.load(plain, map_location="cpu", weights_only=True)
    return dict(_tensors_below(root, ""))


def _without_code(path: Path) -> io.BytesIO:
    """Return the archive as an ordinary torch file: only data.pkl and its storages."""
    plain = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(plain, "w") as copy:
        for entry in archive.infolist():
            inner = entry.filename.partition("/")[2]
            if inner in ("data.pkl", "version", "byteorder") or inner.startswith("data/"):
                copy.writestr(entry.filename, archive.read(entry))
    plain.seek(0)
    return plain


def _tensors_below(node: _Node, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            yield prefix + name, value.detach()
        elif isinstance(value, _Node):
            yield from _tensors_below(value, f"{prefix}{name}.")


def unknown_file(path: Path, tensors: Tensors, sources: str) -> UserError:
    """Return the error for a file with unknown names of tensors. sources: the supported files."""
    first = ", ".join(sorted(tensors)[:3]) or "no tensors"
    return UserError(
        f"{path}: contains {first} ..., unlike any supported file. Fix: convert it to one of "
        f"these: {sources}"
    )

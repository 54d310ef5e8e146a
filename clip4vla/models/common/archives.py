"""Read the tensors of a weight file without running anything that is in it.

safetensors files and what torch saved are read as such: a state dict, or the state of a training
that holds one. OpenAI publishes CLIP as a TorchScript archive, which holds code; here only its data
are read: the classes that it names are replaced by empty ones, and its code is never opened.
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

ARCHIVE = "TorchScript archive"  # `WeightFile.form` of what OpenAI publishes
SCRIPT_CLASSES = "__torch__."  # classes that an archive defines itself
SCRIPT_LISTS = "torch.jit._pickle.build_"  # how an archive writes a typed list
STATES = ("state_dict", "model_state_dict", "model")  # where the state of a training has weights
TRAINING = {  # what stands beside them, or among them
    *("epoch", "global_step", "step", "name", "arch", "loss", "best_score", "args", "config"),
    *("optimizer", "optimizer_state_dict", "optimizer_state", "scheduler", "scaler"),
}
WRAPPER = "module."  # before every name in the state of a distributed training
PACKING = 64 * 2**20  # bytes that a torch file may save by compression: it packs code, not weights
NAMED = re.compile(r"GLOBAL ([^\s'\"]+)")  # a class that torch does not make, in its message
USUAL = (  # classes that trainings save beside weights
    *("argparse.Namespace", "types.SimpleNamespace", "collections.", "numpy.", "pathlib."),
    *("omegaconf.", "yacs.", "easydict.", "torch."),
)
CONVERT = (
    'where you trust the file, keep its state dict alone: python -c "import torch; s = torch.load('
    "{path!r}, weights_only=False); torch.save(s.get('state_dict', s.get('model', s)), "
    "'weights.pt')\""
)


@dataclass(frozen=True)
class WeightFile:
    """What a file holds. left_out: names of what is no weight, such as an optimiser's state."""

    form: str
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...] = ()


class _Node:
    """Stands for a scripted module: an object with attributes and no behaviour."""


def _as_list(values: list[Any]) -> list[Any]:
    return values


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a file that `read_weight_file` can read, on the CPU."""
    return read_weight_file(path).tensors


def read_weight_file(path: str | Path) -> WeightFile:
    """Read a safetensors file, what torch saved, or a TorchScript archive; tensors on the CPU.

    Raises UserError for anything else, and for a file that names code or claims to hold more than
    its size allows; OSError if it cannot be opened.
    """
    path = Path(path)
    form = form_of(path)
    try:
        file = _read(path, form)
    except UserError:
        raise
    except Exception as error:  # readers raise almost anything on bytes that mean harm
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
    """Return our message for a reader's error, since torch's advises to run the file's code."""
    if named := NAMED.search(str(error)):
        name = ascii(named[1])[1:-1][:80]
        fix = CONVERT.format(path=str(path)) if name.startswith(USUAL) else FORMS
        return UserError(f"{path}: holds {name}, which is refused: it may run code. Fix: {fix}")
    if isinstance(error, pickle.UnpicklingError):
        why = "it is damaged, or contains more than tensors and plain values"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
        why = textwrap.shorten(ascii(text)[1:-1], 120, placeholder=" ...")
    return UserError(f"{path}: cannot be read as weights: {why}. Fix: {FORMS}")


def _check_claims(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse, before it is unpacked, an archive that is much larger inside than outside."""
    claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if claimed > size + PACKING:
        raise UserError(
            f"{path}: {size:,} bytes that claim to unpack to {claimed:,}, which torch never "
            "writes; refused: fetch the file again from where it was published"
        )


def _check_extent(path: Path, tensors: dict[str, Tensor]) -> None:
    """Refuse a tensor that is larger than the file: a few numbers made to look like many."""
    size = path.stat().st_size
    for name, value in tensors.items():
        if value.numel() * value.element_size() > size:
            raise UserError(
                f"{path}: {name} claims {list(value.shape)}, more than a file of {size:,} bytes "
                "holds; refused: fetch the file again from where it was published"
            )


def _weights_in(path: Path, saved: Any) -> WeightFile:
    """The state dict in what torch saved, whatever stands beside it."""
    form, beside = "state dict", ()
    if isinstance(saved, dict):
        for name in STATES:
            if isinstance(saved.get(name), dict):
                form, beside = "state of a training", tuple(k for k in saved if k != name)
                saved = saved[name]
                break
        else:
            among = tuple(k for k, v in saved.items() if k in TRAINING and not _is_tensor(v))
            if among and len(among) < len(saved):
                form, beside = "state of a training", among
                saved = {name: value for name, value in saved.items() if name not in among}
    if not isinstance(saved, dict) or not all(
        isinstance(k, str) and _is_tensor(v) for k, v in saved.items()
    ):
        raise UserError(
            f"{path}: does not hold a plain state dict; save model.state_dict() alone and give that"
        )
    if all(name.startswith(WRAPPER) for name in saved):
        saved = {name.removeprefix(WRAPPER): value for name, value in saved.items()}
    return WeightFile(form, dict(saved), tuple(map(str, beside)))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    plain = _without_code(path)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(plain)
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
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


def _tensors_below(node: _Node, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            yield prefix + name, value.detach()
        elif isinstance(value, _Node):
            yield from _tensors_below(value, f"{prefix}{name}.")


def unknown_file(path: Path, tensors: dict[str, Tensor], sources: str) -> UserError:
    """Return the error for a file whose tensors have unknown names. sources: of known files."""
    first = ", ".join(sorted(tensors)[:3]) or "nothing"
    return UserError(
        f"{path}: holds {first} ..., which are the names of no supported file. Fix: convert it to "
        f"one of these: {sources}"
    )

"""The format of a weights file, recognised by its first bytes and its size, without torch.

A web page or a truncated download under the name of weights is thus found when a workflow starts.
"""

import json
import struct
import zipfile
from pathlib import Path

from clip4vla.common.errors import UserError, describe_os_error
from clip4vla.common.signatures import HEAD, UNPACK, foreign_kind
from clip4vla.config.plan import Plan

SAFETENSORS, ZIP, PICKLE = "safetensors", "zip", "pickle"  # the latter two are torch's
FORMS = "give a safetensors file, a state dict saved by torch, or OpenAI's CLIP archive"
AGAIN = "fetch it again"
CONVERT = "convert it to safetensors"
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch wrote before its zip files
HEADER = 100_000_000  # bytes; safetensors refuses longer ones, too
OTHER_MODELS = (  # (first bytes, what it is, what to do)
    (b"\x89HDF", "an HDF5 file (Keras)", CONVERT),
    (b"\x93NUMPY", "a numpy array", CONVERT),
    (b"GGUF", "a GGUF file", CONVERT),
    (b"{", "a JSON file, such as a model's config or index", "give the weights file beside it"),
)


def form_of(path: str | Path) -> str:
    """Return the format of a weights file: SAFETENSORS, ZIP or PICKLE.

    Raises UserError, with the remedy, for anything else and for a truncated file; OSError if it
    cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder. Fix: name the weights file in it")
    if path.exists() and not path.is_file():  # reading a named pipe would never end
        raise UserError(f"{path}: is not a regular file. Fix: {FORMS}")
    with open(path, "rb") as stream:
        start = stream.read(HEAD)
    size = path.stat().st_size
    if not size:
        raise _unreadable(path, "it is empty", AGAIN)
    if start[8:9] == b"{":
        _check_header(path, size)
        return SAFETENSORS
    if start.startswith(b"PK"):
        _check_archive(path)
        return ZIP
    if start.startswith(OLD_TORCH):
        return PICKLE
    kinds = [kind for kind in OTHER_MODELS if start.lstrip().startswith(kind[0])]
    if found := kinds[0][1:] if kinds else foreign_kind(start):
        raise UserError(f"{path}: is {found[0]}, not weights. Fix: {found[1]}")
    if start.startswith(b"\x80"):
        raise _unreadable(path, "it is a plain pickle, which torch did not write", FORMS)
    raise _unreadable(path, f"unknown format ({size:,} bytes)", FORMS)


def unfit_weights(plan: Plan) -> list[str]:
    """Return one line for each weights file of a plan that exists and cannot hold weights."""
    named = (plan.weights_of(run) for run in plan.runs.values())
    names = {name for name in named if name is not None}
    paths = {name: plan.config.weights[name].path for name in sorted(names)}
    found = {name: problem_of(path) for name, path in paths.items() if path and path.exists()}
    return [f"weights {name}: {problem}" for name, problem in found.items() if problem]


def problem_of(path: Path) -> str | None:
    """Return why a file cannot hold weights; None where it may."""
    try:
        form_of(path)
    except OSError as error:
        return describe_os_error(error)
    except UserError as error:
        return str(error)
    return None


def _check_header(path: Path, size: int) -> None:
    """Compare the size in the header of a safetensors file with that of the file."""
    with open(path, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(size - 8, HEADER):
            raise _unreadable(path, "its header is truncated or damaged", AGAIN)
        text = stream.read(length)
    try:
        entries = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        wanted = 8 + length + max(map(int, ends), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise _unreadable(path, "its header is damaged", AGAIN) from None
    if wanted != size:
        raise _unreadable(path, f"it has {size:,} bytes, and its header says {wanted:,}", AGAIN)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # zipfile raises NotImplementedError for a version of the format that it cannot read.
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise _unreadable(path, "it is a truncated or damaged zip file", AGAIN) from None
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{path}: is a zip archive that torch did not write. Fix: {UNPACK}")


def _unreadable(path: Path, why: str, fix: str) -> UserError:
    return UserError(f"{path}: cannot be read as weights: {why}. Fix: {fix}")

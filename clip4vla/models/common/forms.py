"""Detection of the format of a weights file by its first bytes and its size, without torch.

So a web page or a truncated download with the name of weights is detected when a workflow starts.
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
AGAIN = "download it again"
CONVERT = "convert it to safetensors"
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of torch before 1.6
HEADER = 100_000_000  # bytes; the limit of safetensors
OTHER_MODELS = (  # (first bytes, format, fix)
    (b"\x89HDF", "an HDF5 file (Keras)", CONVERT),
    (b"\x93NUMPY", "a numpy array", CONVERT),
    (b"GGUF", "a GGUF file", CONVERT),
    (b"{", "a JSON file, such as a model's config or index", "give the weights file next to it"),
)


def form_of(path: str | Path) -> str:
    """Return the format of a weights file: SAFETENSORS, ZIP or PICKLE.

    Raises UserError, with the fix, for any other file and for a truncated one; OSError if it cannot
    be opened.
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
    if kind := kinds[0][1:] if kinds else foreign_kind(start):
        raise UserError(f"{path}: is {kind[0]}, not weights. Fix: {kind[1]}")
    if start.startswith(b"\x80"):
        raise _unreadable(path, "it is a plain pickle, which torch did not write", FORMS)
    raise _unreadable(path, f"unknown format ({size:,} bytes)", FORMS)


def unfit_weights(plan: Plan) -> list[str]:
    """Return one line for each weights file of a plan that exists and cannot hold weights."""
    names = {name for run in plan.runs.values() for name in plan.weights_of(run)}
    paths = {name: plan.config.weights[name].path for name in sorted(names)}
    problems = {name: problem_of(path) for name, path in paths.items() if path and path.exists()}
    return [f"weights {name}: {problem}" for name, problem in problems.items() if problem]


def problem_of(path: Path) -> str | None:
    """Return the reason why a file, or a folder of a text encoder, cannot hold weights, or None."""
    if (path / "config.json").is_file():
        return None  # what else such a folder needs is checked when it is read
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
            raise _unreadable(path, "its header is truncated or corrupt", AGAIN)
        text = stream.read(length)
    try:
        entries = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        expected = 8 + length + max(map(int, ends), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise _unreadable(path, "its header is corrupt", AGAIN) from None
    if expected != size:
        raise _unreadable(path, f"it has {size:,} bytes, but its header says {expected:,}", AGAIN)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # zipfile raises NotImplementedError for a version of the format that it cannot read.
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise _unreadable(path, "it is a truncated or corrupt zip file", AGAIN) from None
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{path}: is a zip archive that torch did not write. Fix: {UNPACK}")


def _unreadable(path: Path, why: str, fix: str) -> UserError:
    return UserError(f"{path}: cannot be read as weights: {why}. Fix: {fix}")

"""The form of a file that is given as weights: told by its first bytes and its size, without torch.

So a web page or half a download under the name of weights is found at the start of a workflow.
"""

import json
import struct
import zipfile
from pathlib import Path

from clip4vla.config.plan import Plan
from clip4vla.errors import UserError, describe_os_error

SAFETENSORS, ZIP, PICKLE = "safetensors", "zip", "pickle"  # the latter two are torch's
FORMS = "give a safetensors file, a state dict saved by torch, or OpenAI's CLIP archive"
AGAIN = "fetch it again"
UNPACK = "unpack it and give the file of weights in it"
CONVERT = "convert it to safetensors"
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch wrote before its zip files
HEADER = 100_000_000  # bytes; safetensors refuses longer ones, too
SIGNS = (  # (first bytes, what it is, what to do)
    (b"<", "a web page", f"{AGAIN}, in a browser if need be"),
    (b"version https://git-lfs", "a pointer of Git LFS", "run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip file", UNPACK),
    (b"BZh", "a bzip2 file", UNPACK),
    (b"\xfd7zXZ\0", "an xz file", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a", "a RAR archive", UNPACK),
    (b"\x89HDF", "an HDF5 file (Keras)", CONVERT),
    (b"\x93NUMPY", "a numpy array", CONVERT),
    (b"GGUF", "a GGUF file", CONVERT),
    (b"{", "a JSON text, such as the config or the index of a model", "give the weights beside it"),
    (b"\0\0\0\0\0\0\0\0", "zero bytes, as an interrupted copy leaves them", "copy it again"),
)


def form_of(path: str | Path) -> str:
    """The form of a file of weights: SAFETENSORS, ZIP or PICKLE.

    UserError, with the remedy, for anything else, and for a file that was cut off; OSError if it
    cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file of weights in it")
    with open(path, "rb") as stream:
        start = stream.read(512)
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
    for sign, what, fix in SIGNS:
        if start.lstrip().startswith(sign):
            raise UserError(f"{path}: is {what}, not weights. Fix: {fix}")
    if start[257:262] == b"ustar":
        raise UserError(f"{path}: is a tar archive, not weights. Fix: {UNPACK}")
    if start.startswith(b"\x80"):
        raise _unreadable(path, "it is a plain pickle, which torch did not write", FORMS)
    raise _unreadable(path, f"its {size:,} bytes are of no form of weights", FORMS)


def unfit_weights(plan: Plan) -> list[str]:
    """One line for each file of a plan's weights that is there and cannot be one of weights."""
    names = {plan.weights_of(run) for run in plan.runs.values()} - {None}
    paths = {name: plan.config.weights[name].path for name in sorted(names)}
    found = {name: problem_of(path) for name, path in paths.items() if path and path.exists()}
    return [f"weights {name}: {problem}" for name, problem in found.items() if problem]


def problem_of(path: Path) -> str | None:
    """Why a file cannot be one of weights; None where it may be."""
    try:
        form_of(path)
    except OSError as error:
        return describe_os_error(error)
    except UserError as error:
        return str(error)
    return None


def _check_header(path: Path, size: int) -> None:
    """Compare what the header of a safetensors file says with the size of the file."""
    with open(path, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(size - 8, HEADER):
            raise _unreadable(path, "its header is cut off, or it is damaged", AGAIN)
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
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise _unreadable(path, "it is a zip file that was cut off or is damaged", AGAIN) from None
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{path}: is a zip archive that torch did not write. Fix: {UNPACK}")


def _unreadable(path: Path, why: str, fix: str) -> UserError:
    return UserError(f"{path}: cannot be read as weights: {why}. Fix: {fix}")

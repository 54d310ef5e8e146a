"""Operations that earlier plans counted, in the user's cache folder: a plan without torch.

A count depends on its question, on the files of the package and on the libraries that models are
made of. A file with other ones, or one that is damaged, is ignored and replaced.
"""

import hashlib
import os
import sys
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clip4vla.common.files import canonical_json, read_json, sha256_of, write_text
from clip4vla.config.family_names import FAMILIES

LIBRARIES = "torch", "open_clip_torch", "tokenizers"


class KeptCounts:
    """The counts of earlier plans, in `known`; `write` keeps those that were added."""

    def __init__(self) -> None:
        self.code = _code()
        self.known = self._read()
        self.read = len(self.known)

    def write(self) -> None:
        """Keep all counts for later plans, if the folder can be written."""
        if len(self.known) == self.read:
            return
        counts = self._read() | self.known  # another plan may have written since
        content = {"counts": counts, "sha256": self._checksum(counts)}
        with suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
            write_text(_path(), canonical_json(content))

    def _read(self) -> dict[str, Any]:
        """Return the counts of the file; {} for any other file and for none."""
        try:
            content = read_json(_path())
            counts: dict[str, Any] = content["counts"]
            return counts if content["sha256"] == self._checksum(counts) else {}
        except (OSError, RuntimeError, ValueError, TypeError, LookupError):
            return {}

    def _checksum(self, counts: dict[str, Any]) -> str:
        return sha256_of(self.code + canonical_json(counts))


def _path() -> Path:
    """Return the file of this installation of the package."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    installation = sha256_of(f"{Path(__file__).parent} {sys.prefix}")[:12]
    return Path(base, "clip4vla", f"operations-{installation}.json")


def _code() -> str:
    """Return the hash of the package's files, of families outside of it, and of the libraries."""
    found = hashlib.sha256(" ".join(map(version, LIBRARIES)).encode())
    for package in sorted({"clip4vla", *FAMILIES.values()}):
        spec = find_spec(package)
        assert spec is not None and spec.submodule_search_locations, "a package, which is loaded"
        for folder in spec.submodule_search_locations:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and path.parent.name != "__pycache__":
                    found.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode())
                    found.update(path.read_bytes())
    return found.hexdigest()

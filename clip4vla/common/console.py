"""Console and tables of commands, which cut no name and print a user's text literally."""

from rich.console import Console
from rich.table import Table

NARROWEST, IN_A_PIPE = 80, 1000  # characters per line


def console() -> Console:
    """Return a console that ignores markup in texts and breaks none of their lines.

    Tables are as wide as the terminal; in a pipe or a file, as wide as their content. Numbers are
    never broken: a terminal that is too narrow for them wraps whole lines.
    """
    plain = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    plain.width = max(plain.width, NARROWEST) if plain.is_terminal else IN_A_PIPE
    return plain


def table(*headings: str, title: str | None = None) -> Table:
    """Return a table that folds words which are too long for their column."""
    folding = Table(title=title)
    for heading in headings:
        folding.add_column(heading, overflow="fold")
    return folding


def in_bytes(count: float) -> str:
    """Format a size in MB, GB or TB."""
    for unit in ("MB", "GB"):
        count /= 1000 if unit == "GB" else 1e6
        if count < 1000:
            return f"{count:,.0f} {unit}" if count >= 1 else f"< 1 {unit}"
    return f"{count / 1000:,.1f} TB"

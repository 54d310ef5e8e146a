"""What commands print tables on: no name is cut, and a user's text is printed as it is."""

from rich.console import Console
from rich.table import Table

NARROWEST, IN_A_PIPE = 80, 1000  # characters a line


def console() -> Console:
    """A console that reads no markup in texts and breaks no line of them.

    Tables are as wide as the terminal; in a pipe or a file, as what stands in them. Numbers are
    never broken: a terminal that is too narrow for them wraps whole lines.
    """
    found = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    found.width = max(found.width, NARROWEST) if found.is_terminal else IN_A_PIPE
    return found


def table(*headings: str, title: str | None = None) -> Table:
    """A table that goes on in the next line where a word is too long for its column."""
    found = Table(title=title)
    for heading in headings:
        found.add_column(heading, overflow="fold")
    return found

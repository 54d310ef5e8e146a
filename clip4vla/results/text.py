"""Numbers and texts as all tables write them."""

import re

from clip4vla.config.metrics import metric_of

CODE = re.compile(r"(`[^`]+`)")
# Underscores within words and single brackets are not markup; a dollar begins a formula on GitHub.
MARKUP = re.compile(r"[\\`*~$<]|&(?=#?\w+;)|(?<!\w)_|_(?!\w)|(?<=\])[(\[:]")
LEADING = re.compile(r"^(\d*)([#>+=.)-])(?=\s|[=#-]|$)")  # headings, lists, quotes, underlines


def number(value: float, metric: str) -> str:
    """Format a value as the paper does: one decimal; costs without .0, with 2 digits below 1."""
    if metric_of(metric).unit == "cost":
        return f"{value:.2g}" if value < 1 else f"{value:.1f}".removesuffix(".0")
    return f"{value:.1f}"


def signed(value: float) -> str:
    """Format a difference with its sign, a real minus; zero has none."""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def one_line(text: str) -> str:
    """Collapse whitespace, line breaks too, to single spaces."""
    return " ".join(text.split())


def markdown(text: str) -> str:
    """Escape a text of one line for GitHub Markdown; only `code` stays markup."""
    parts = CODE.split(text)  # plain text and code in turn
    parts[::2] = [MARKUP.sub(_escaped, part) for part in parts[::2]]
    return LEADING.sub(r"\1\\\2", "".join(parts))


def markdown_cell(text: str) -> str:
    """Escape a text of one line for a cell of a Markdown table, where bars separate cells."""
    return markdown(text).replace("|", r"\|")


def _escaped(mark: re.Match[str]) -> str:
    return {"<": "&lt;", "&": "&amp;"}.get(mark[0], "\\" + mark[0])


def tex(text: str) -> str:
    """Escape a text for LaTeX, with the marks of the tables in math."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    special |= {"±": r"$\pm$", "−": "$-$", "–": "--", "—": "---", "×": r"$\times$"}
    special |= {"<": "$<$", ">": "$>$", "|": r"\textbar{}"}
    escaped = "".join(special.get(mark, mark) for mark in text)
    return (
        f"{{}}{escaped}" if text.startswith(("[", "*")) else escaped
    )  # else read as options of \\

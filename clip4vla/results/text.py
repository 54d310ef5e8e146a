"""How numbers and texts are written in every table."""

import re

COSTS = ("batch_size", "trained_params_M", "_days", "_days_min", "_days_max")
CODE = re.compile(r"(`[^`]+`)")
# An underscore within a word and a lone bracket are no markup; a dollar begins a formula on GitHub.
MARKUP = re.compile(r"[\\`*~$<]|&(?=#?\w+;)|(?<!\w)_|_(?!\w)|(?<=\])[(\[:]")
LEADING = re.compile(r"^(\d*)([#>+=.)-])(?=\s|[=#-]|$)")  # headings, lists, quotes, underlines


def number(value: float, metric: str) -> str:
    """A value as the paper prints it: one decimal; of a cost none of zero, two digits below 1."""
    if metric.endswith(COSTS):
        return f"{value:.2g}" if value < 1 else f"{value:.1f}".removesuffix(".0")
    return f"{value:.1f}"


def signed(value: float) -> str:
    """A difference with its sign; the minus is a real one, and zero has none."""
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
    """A text in LaTeX: its special marks escaped, and those of the tables in math."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    special |= {"±": r"$\pm$", "−": "$-$", "–": "--", "—": "---", "×": r"$\times$"}
    special |= {"<": "$<$", ">": "$>$", "|": r"\textbar{}"}
    found = "".join(special.get(mark, mark) for mark in text)
    return f"{{}}{found}" if text.startswith(("[", "*")) else found  # else read as options of \\

"""How numbers and texts are written in every table."""

COSTS = ("batch_size", "trained_params_M", "_days", "_days_min", "_days_max")


def number(value: float, metric: str) -> str:
    """A value as the paper prints it: one decimal; of a cost none of zero, two digits below 1."""
    if metric.endswith(COSTS):
        return f"{value:.2g}" if value < 1 else f"{value:.1f}".removesuffix(".0")
    return f"{value:.1f}"


def signed(value: float) -> str:
    """A difference with its sign; the minus is a real one, and zero has none."""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def tex(text: str) -> str:
    """A text in LaTeX: its special marks escaped, and those of the tables in math."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    special |= {"±": r"$\pm$", "−": "$-$", "–": "--", "—": "---", "×": r"$\times$"}
    special |= {"<": "$<$", ">": "$>$"}
    return "".join(special.get(mark, mark) for mark in text)

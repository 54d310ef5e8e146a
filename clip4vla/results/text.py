"""How numbers are written in every table."""

COSTS = ("batch_size", "trained_params_M", "_days", "_days_min", "_days_max")


def number(value: float, metric: str) -> str:
    """A value as the paper prints it: one decimal, costs as whole numbers."""
    return f"{value:g}" if metric.endswith(COSTS) else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference with its sign; the minus is a real one, and zero has none."""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")

"""The numbers in a stage's summary, under one name each."""

from typing import Any


def numbers(summary: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number at any depth as `galleries/all/metrics/t2v_R1` -> value; texts are left out.

    A variant `audio=silent` is called `audio:silent`: MLflow takes no equals sign and no comma.
    """
    found: dict[str, float] = {}
    for name, value in summary.items():
        name = name.replace("=", ":").replace(",", "")
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[prefix + name] = float(value)
    return found

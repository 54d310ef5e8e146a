"""Numbers of a stage's summary by name."""

from typing import Any


def numbers(summary: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return every number at any depth, as `galleries/all/metrics/t2v_R1` -> value.

    A variant `audio=silent` becomes `audio:silent`, because MLflow refuses equals signs and commas.
    """
    values: dict[str, float] = {}
    for name, value in summary.items():
        name = name.replace("=", ":").replace(",", "")
        if isinstance(value, dict):
            values |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            values[prefix + name] = float(value)
    return values

"""What the sides of a comparison must agree on."""


def agreed(what: str, value: float, most: float) -> str:
    """Return a note of a difference between both sides, such as the greatest one of their scores.

    Raises SystemExit, which ends a benchmark with one line and without a record, if the difference
    is above `most` or NaN.
    """
    if not value <= most:
        raise SystemExit(f"the sides disagree: {what} {value:g}, allowed {most:g}")
    return f"{what} {value:.2g} (allowed {most:.3g})"

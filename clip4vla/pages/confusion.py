"""Confusion matrix as an SVG: rows are labels, columns are predictions."""

from collections import Counter

from markupsafe import Markup

from clip4vla.common.html import render

LARGEST, CELL, MARGIN = 640, 90, 150  # pixels: matrix and cell at most, space for names


def confusion(labels: list[str], predicted: list[str]) -> Markup:
    """Return an SVG whose cells show shares of their row, with counts as tooltips."""
    sizes = Counter(labels)
    place = {name: index for index, name in enumerate(sorted({*labels, *predicted}))}
    cell = min(CELL, LARGEST / len(place))
    cells = [
        {
            "label": label,
            "guess": guess,
            "count": count,
            "x": MARGIN + place[guess] * cell,
            "y": MARGIN + place[label] * cell,
        }
        for (label, guess), count in sorted(Counter(zip(labels, predicted, strict=True)).items())
    ]
    drawing = render(
        "pages/confusion.html",
        sizes={name: sizes[name] for name in place},
        cells=cells,
        cell=cell,
        side=cell * len(place),
        margin=MARGIN,
        font=max(4.0, min(12.0, 0.8 * cell)),
    )
    return Markup(drawing.rstrip("\n"))

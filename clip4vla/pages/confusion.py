"""Confusion matrix as an SVG: rows are labels, columns are predictions."""

from collections import Counter

from markupsafe import Markup, escape

LARGEST, CELL, MARGIN = 640, 90, 150  # pixels: matrix and cell at most, space for names


def confusion(labels: list[str], predicted: list[str]) -> Markup:
    """Return an SVG whose cells show shares of their row, with counts as tooltips."""
    classes = sorted(set(labels) | set(predicted))
    pairs, sizes = Counter(zip(labels, predicted, strict=True)), Counter(labels)
    place = {name: index for index, name in enumerate(classes)}
    cell = min(CELL, LARGEST / len(classes))
    side = cell * len(classes)
    outer = side + MARGIN
    font = max(4.0, min(12.0, 0.8 * cell))
    parts = [
        f'<svg viewBox="0 0 {outer:g} {outer:g}" width="{outer:g}" role="img" '
        f'aria-label="confusion matrix" font-size="{font:.1f}" style="max-width:100%">'
    ]
    for name, index in place.items():
        middle = MARGIN + (index + 0.5) * cell
        parts.append(
            f'<text x="{MARGIN - 5}" y="{middle:.1f}" text-anchor="end" dominant-baseline="middle">'
            f"{escape(_short(name))} ({sizes[name]})</text>"
        )
        parts.append(
            f'<text transform="translate({middle:.1f} {MARGIN - 5}) rotate(-60)">'
            f"{escape(_short(name))}</text>"
        )
    for (label, guess), count in sorted(pairs.items()):
        share = count / sizes[label]
        colour = "#009e73" if label == guess else "#d55e00"
        x, y = (MARGIN + place[name] * cell for name in (guess, label))
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" fill="{colour}" '
            f'fill-opacity="{0.12 + 0.88 * share:.2f}"><title>{escape(label)} taken for '
            f"{escape(guess)}: {count} of {sizes[label]}</title></rect>"
        )
        if cell >= 18:
            parts.append(
                f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2:.1f}" text-anchor="middle" '
                f'dominant-baseline="middle" pointer-events="none">{count}</text>'
            )
    box = f'x="{MARGIN}" y="{MARGIN}" width="{side:g}" height="{side:g}"'
    frame = f'<rect {box} fill="none" stroke="#9aa7b4"/>'
    return Markup("\n".join([*parts, frame, "</svg>"]))


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"

"""Draw docs/images/model.txt and pipeline.txt as SVG, for light and dark pages, and the badges.

A picture is lines of text: `size WIDTH HEIGHT | what it shows`, `name kind x y width height |
title | note | note` (a box, in pixels), `heading x y | title | note`, and `name > name` (an arrow).
"""

import itertools
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from clip4vla.common.files import write_text

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
FONT = "-apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', Helvetica, Arial, sans-serif"
THEMES = {  # each kind of box: fill and edge
    "light": {
        "text": "#1f2328",
        "note": "#59636e",
        "line": "#818b98",
        "input": ("#f6f8fa", "#d1d9e0"),
        "sound": ("#fff1e5", "#e8863b"),
        "vision": ("#ddf4ff", "#4393e4"),
        "words": ("#e6f6e8", "#4aa564"),
        "both": ("#f3ebff", "#9a6fd8"),
        "result": ("#ffffff", "#59636e"),
    },
    "dark": {
        "text": "#f0f6fc",
        "note": "#9198a1",
        "line": "#656c76",
        "input": ("#151b23", "#3d444d"),
        "sound": ("#3d2415", "#e8863b"),
        "vision": ("#10263e", "#4393e4"),
        "words": ("#14301c", "#4aa564"),
        "both": ("#2a1d42", "#9a6fd8"),
        "result": ("#0d1117", "#9198a1"),
    },
}


@dataclass(frozen=True)
class Box:
    """A box: its kind, upper left corner, size in pixels, title and lines below the title."""

    kind: str
    x: int
    y: int
    width: int
    height: int
    title: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """Boxes by name, arrows between them, headings at (x, y), and a description in words."""

    width: int
    height: int
    describes: str
    boxes: dict[str, Box]
    arrows: list[tuple[str, str]]
    headings: list[tuple[int, int, str, str]]


def read(text: str) -> Picture:
    """Return the picture that lines of text describe."""
    first, *lines = text.strip().splitlines()
    size, describes = first.split(" | ")
    width, height = (int(number) for number in size.split()[1:])
    picture = Picture(width, height, describes, boxes={}, arrows=[], headings=[])
    for line in lines:
        if " > " in line:
            names = line.split(" > ")
            picture.arrows.extend(itertools.pairwise(names))
            continue
        place, title, *notes = (part.strip() for part in line.split("|"))
        name, *words = place.split()
        if name == "heading":
            picture.headings.append((int(words[0]), int(words[1]), title, notes[0]))
        else:
            x, y, wide, high = (int(number) for number in words[1:])
            picture.boxes[name] = Box(words[0], x, y, wide, high, title, tuple(notes))
    return picture


BADGES = {
    "licence": "Apache-2.0",
    "python": "3.11 – 3.13",
    "docs": "tutorials, how-to, reference",
    "tests": "last whole runs",
}


def arrow(start: Box, end: Box) -> str:
    """Return the path of an arrow: a curve to the next column, or a bent line to a lower row."""
    if start.x + start.width <= end.x and start.y + start.height > end.y:
        x, y = start.x + start.width, start.y + start.height // 2
        to_x, to_y = end.x - 7, min(max(y, end.y + 35), end.y + end.height - 18)
        half = (x + to_x) // 2
        return f"M{x} {y}C{half} {y} {half} {to_y} {to_x} {to_y}"
    x, y = start.x + start.width // 2, start.y + start.height
    to_x, to_y = end.x + end.width // 2, end.y - 7
    bend = "" if x == to_x else f"V{(y + end.y) // 2}H{to_x}"
    return f"M{x} {y}{bend}V{to_y}"


def drawn(picture: Picture, theme: str) -> str:
    """Return a picture as SVG in the colours of a theme, on a transparent ground."""
    colours = THEMES[theme]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {picture.width + 4} '
        f'{picture.height + 4}" font-family="{FONT}" font-size="14" role="img">',
        f"<title>{escape(picture.describes)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{colours["line"]}"/>'
        "</marker></defs>",
    ]
    for x, y, title, note in picture.headings:
        lines.append(
            f'<text x="{x}" y="{y}" font-size="20" font-weight="600" fill="{colours["text"]}">'
            f'{title}<tspan dx="14" font-size="14" font-weight="400" fill="{colours["note"]}">'
            f"{escape(note)}</tspan></text>"
        )
    for start, end in picture.arrows:
        path = arrow(picture.boxes[start], picture.boxes[end])
        lines.append(
            f'<path d="{path}" fill="none" stroke="{colours["line"]}" stroke-width="1.6" '
            'marker-end="url(#tip)"/>'
        )
    for box in picture.boxes.values():
        lines += boxed(box, colours)
    return "\n".join([*lines, "</svg>"]) + "\n"


def boxed(box: Box, colours: dict) -> list[str]:
    """Return a box with its text, centred."""
    fill, edge = colours[box.kind]
    middle = box.x + box.width // 2
    top = box.y + box.height // 2 - 9 * len(box.notes) + 5
    lines = [
        f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="10" '
        f'fill="{fill}" stroke="{edge}" stroke-width="1.6"/>',
        f'<text x="{middle}" y="{top}" text-anchor="middle" font-size="16" font-weight="600" '
        f'fill="{colours["text"]}">{escape(box.title)}</text>',
    ]
    for number, note in enumerate(box.notes, 1):
        lines.append(
            f'<text x="{middle}" y="{top + 2 + 18 * number}" text-anchor="middle" '
            f'fill="{colours["note"]}">{escape(note)}</text>'
        )
    return lines


def badge(label: str, value: str) -> str:
    """Return a badge as SVG. It states a fact of this tree, never the state of a server."""
    first, second = (round(7 * len(text)) + 14 for text in (label, value))
    text = 'font-family="Verdana, \'DejaVu Sans\', sans-serif" font-size="11" fill="#fff"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{first + second}" height="20" role="img">'
        f"<title>{label}: {value}</title>"
        f'<clipPath id="r"><rect width="{first + second}" height="20" rx="4"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{first}" height="20" fill="#444c56"/>'
        f'<rect x="{first}" width="{second}" height="20" fill="#2f6fb3"/></g>'
        f'<g {text} text-anchor="middle"><text x="{first / 2:g}" y="14">{label}</text>'
        f'<text x="{first + second / 2:g}" y="14">{value}</text></g></svg>\n'
    )


def read_all() -> dict[str, Picture]:
    """Return the pictures that docs/images describes, by name."""
    return {path.stem: read(path.read_text()) for path in sorted(IMAGES.glob("*.txt"))}


def pictures() -> dict[str, str]:
    """Return the content of every drawn picture by its name in docs/images."""
    drawings = {
        f"{name}-{theme}.svg": drawn(picture, theme)
        for name, picture in read_all().items()
        for theme in THEMES
    }
    return drawings | {f"badge-{name}.svg": badge(name, value) for name, value in BADGES.items()}


def main() -> None:
    """Write the pictures; with `--check` only say whether they are up to date."""
    for name, text in pictures().items():
        path = IMAGES / name
        if "--check" not in sys.argv:
            write_text(path, text)
        elif not path.is_file() or path.read_text() != text:
            sys.exit(f"{path}: out of date. Fix: run {Path(__file__).name}")


if __name__ == "__main__":
    main()

"""Markdown, HTML and LaTeX of a table. Equal grids give equal text."""

import re
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup, escape

from clip4vla.common.html import render
from clip4vla.results.cells import Table
from clip4vla.results.footers import made_with
from clip4vla.results.layout import Grid, Line
from clip4vla.results.text import CODE, markdown, markdown_cell, tex


def source_text(line: Line) -> str:
    """Return the label of a line: `paper`, `ours (with sound)` and so on."""
    return f"{line.source} ({line.suffix})" if line.suffix else line.source


def to_markdown(grid: Grid) -> str:
    """Return GitHub Markdown with one header row, dataset and metric in each heading."""
    headings = [
        f"{group} {heading}"
        for (group, size), start in _spans(grid)
        for heading in grid.headings[start : start + size]
    ]
    text = [f"# {markdown(grid.title)}", ""]
    text += [markdown(grid.caption), ""] if grid.caption else []
    text += [f"> **Note.** {markdown(grid.note)}", ""] if grid.note else []
    text.append("| " + " | ".join(markdown_cell(cell) for cell in ["row", "", *headings]) + " |")
    text.append("|:---|:---|" + "---:|" * len(headings))
    for line, label in _labelled(grid):
        shown = markdown_cell(label)
        shown = f"**{shown}**" if label and line.source != "paper" else shown
        cells = [shown, source_text(line), *(markdown_cell(cell) for cell in line.cells)]
        text.append("| " + " | ".join(cells) + " |")
    text += ["", *(f"- {markdown(line)}" for line in grid.footers)]
    return "\n".join(text) + "\n"


def to_html(grid: Grid, tables: list[Table]) -> str:
    """Return a self-contained HTML page."""
    return html_page("table", title=grid.title, grid=grid, tables=tables)


def html_page(template: str, **values: Any) -> str:
    """Return a page that shows tables, from `<template>.html` of this room."""
    return render(f"results/{template}.html", code=_code, made_with=made_with, **values)


def _code(text: str) -> Markup:
    """Escape a text for HTML; only `code` becomes markup."""
    parts = CODE.split(text)  # plain text and code in turn
    parts[::2] = map(escape, parts[::2])
    parts[1::2] = (Markup("<code>{}</code>").format(part[1:-1]) for part in parts[1::2])
    return Markup("").join(parts)


def to_latex(grid: Grid) -> str:
    """Return a `table` with booktabs rules; the document needs booktabs and graphicx."""
    columns = len(grid.headings)
    groups = [rf"\multicolumn{{{size}}}{{c}}{{{tex(name)}}}" for name, size in grid.groups]
    rules = [
        rf"\cmidrule(lr){{{start + 3}-{start + 2 + size}}}" for (_, size), start in _spans(grid)
    ]
    out = [
        r"\begin{table}[t]",
        r"\centering",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{ll{'r' * columns}}}",
        r"\toprule",
        " & & " + " & ".join(groups) + r" \\",
        "".join(rules),
        " & & " + " & ".join(tex(heading) for heading in grid.headings) + r" \\",
    ]
    ours = {line.row for line in grid.lines if line.source == "ours"}
    above = True  # whether the row above has lines of ours; rules surround such rows
    for line, label in _labelled(grid):
        if label:
            if above or line.row in ours:
                out.append(r"\midrule")
            above = line.row in ours
        cells = [label, source_text(line), *line.cells]
        out.append(" & ".join(tex(cell) for cell in cells) + r" \\")
    note = f" Note: {grid.note}" if grid.note else ""
    out += [
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\caption{{{tex(f'{_own_title(grid)}. {grid.caption}{note}'.strip())}}}",
        rf"\label{{tab:{grid.name}}}",
        r"\end{table}",
    ]
    return "\n".join([*out, *(f"% {line}" for line in grid.footers)]) + "\n"


def _own_title(grid: Grid) -> str:
    """Return the title without the paper's number before it, because LaTeX counts tables."""
    parts = re.fullmatch(r"((?:Table|Figure) \d+): (.)(.*)", grid.title)
    return f"{parts[2].upper()}{parts[3]} ({parts[1]} of the paper)" if parts else grid.title


def _spans(grid: Grid) -> Iterator[tuple[tuple[str, int], int]]:
    """Yield each group of columns with the number of its first column."""
    start = 0
    for group in grid.groups:
        yield group, start
        start += group[1]


def _labelled(grid: Grid) -> Iterator[tuple[Line, str]]:
    """Yield lines with their label, which is empty below a row's first line."""
    last = None
    for line in grid.lines:
        yield line, line.label if line.row != last else ""
        last = line.row

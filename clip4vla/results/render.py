"""Markdown, HTML and LaTeX of a table. Equal grids give equal text."""

import re
from collections.abc import Iterator
from html import escape

from clip4vla.results.layout import Grid, Line
from clip4vla.results.text import markdown, markdown_cell, tex

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2733; background: #fff;
       max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #4a5a6a; padding-bottom: .5rem; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; }
thead th { white-space: normal; vertical-align: bottom; border-bottom: 1px solid #1c2733; }
thead tr:first-child th { border-top: 2px solid #1c2733; border-bottom: 0; }
th.group { text-align: center; border-bottom: 1px solid #9aa7b4 !important; }
th[scope=row], td.source { text-align: left; }
td.source, .paper td { color: #4a5a6a; }
tbody { border-bottom: 1px solid #dde3e9; } tbody:last-child { border-bottom: 2px solid #1c2733; }
tbody.ours { background: #f4f8fc; } tr.ours td { font-weight: 600; }
tr.ours td.source { font-weight: 400; } td.counts { font-size: 85%; font-weight: 400 !important; }
.badge { display: inline-block; padding: 0 .45rem; border-radius: .6rem; font-size: 85%;
         font-weight: 400; border: 1px solid #9aa7b4; color: #4a5a6a; background: #fff; }
.badge.within { border-color: #0072b2; color: #005282; background: #e6f1f8; }
.badge.above { border-color: #009e73; color: #006348; background: #e5f5f0; }
.badge.below { border-color: #d55e00; color: #953f00; background: #fbeee4; }
.badge.partial { border-color: #b58900; color: #6f5400; background: #fbf5e0; }
.note { border-left: 4px solid #e69f00; background: #fdf6e6; padding: .5rem .8rem; }
.small { color: #4a5a6a; font-size: 85%; padding-left: 1.2rem; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { color: #4a5a6a; }
""".strip()
BADGES = (
    "within",
    "above",
    "below",
    "partial",
    "not comparable",
    "not run (no data)",
    "not run",
    "other gallery",
    "other protocol",
)


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


def to_html(grid: Grid) -> str:
    """Return a self-contained HTML page."""
    return html_page(grid.title, f"<h1>{escape(grid.title)}</h1>\n{html_fragment(grid)}")


def html_page(title: str, body: str) -> str:
    """Return a page with the style of all tables around a body."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def html_fragment(grid: Grid) -> str:
    """Return note, table and footers, without a heading."""
    out = [f'<p class="note"><strong>Note.</strong> {escape(grid.note)}</p>'] if grid.note else []
    out.append('<div class="scroll"><table>')
    if grid.caption:
        out.append(f"<caption>{escape(grid.caption)}</caption>")
    groups = "".join(
        f'<th class="group" scope="colgroup" colspan="{size}">{escape(group)}</th>'
        for group, size in grid.groups
    )
    headings = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in grid.headings)
    out.append(f'<thead><tr><th colspan="2"></th>{groups}</tr>')
    out.append(f'<tr><th scope="col"></th><th></th>{headings}</tr></thead>')
    ours = {line.row for line in grid.lines if line.source == "ours"}
    opened = False
    for line, label in _labelled(grid):
        if label:
            out.append("</tbody>" if opened else "")
            out.append('<tbody class="ours">' if line.row in ours else '<tbody class="paper">')
            opened = True
        cells = "".join(_html_cell(grid, index, cell) for index, cell in enumerate(line.cells))
        out.append(
            f'<tr class="{line.source}"><th scope="row">{escape(label)}</th>'
            f'<td class="source">{escape(source_text(line))}</td>{cells}</tr>'
        )
    out.append("</tbody></table></div>")
    small = "\n".join(f"<li>{escape(line)}</li>" for line in grid.footers)
    out.append(f'<ul class="small">\n{small}\n</ul>')
    return "\n".join(part for part in out if part)


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


def _html_cell(grid: Grid, index: int, cell: str) -> str:
    if cell in BADGES or cell.startswith("order "):
        look = {"order kept": "within", "order broken": "below"}
        kind = look.get(" ".join(cell.split()[:2]), cell.split()[0])
        return f'<td><span class="badge {kind}">{escape(cell)}</span></td>'
    kind = ' class="counts"' if "×" in grid.headings[index] else ""
    return f"<td{kind}>{escape(cell)}</td>"

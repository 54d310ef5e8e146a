"""The results page: tables, charts and curves in one self-contained file."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from clip4vla.common.files import write_text
from clip4vla.media.coverage_file import read_coverage
from clip4vla.results import charts, figures_compare, figures_data
from clip4vla.results.behind import Folders, Group, Planned, groups_of
from clip4vla.results.cells import Table, tables_of, tally
from clip4vla.results.compare import Entry
from clip4vla.results.cost import read_costs
from clip4vla.results.figures import save
from clip4vla.results.figures_cost import STAGES, cost_figure
from clip4vla.results.figures_sweep import sweep
from clip4vla.results.layout import Grid
from clip4vla.results.numbers import to_numbers
from clip4vla.results.paper import read_paper
from clip4vla.results.render import html_page
from clip4vla.results.sheet import Sheet, read_sheet
from clip4vla.results.summary import Main, facts, main_numbers
from clip4vla.results.tables import table_views
from clip4vla.results.tidy import build_tidy, write_tidy
from clip4vla.tracking.recorded import check_recorded

DOWNLOADS = {
    "table.csv": "CSV",
    "table.tex": "LaTeX",
    "table.md": "Markdown",
    "tidy.csv": "every metric",
    "bars.svg": "figure (SVG)",
    "bars.png": "figure (PNG)",
}
RESERVED = ("top", "difference", "cost", "coverage", "curves", "examples", "main")  # other sections


@dataclass(frozen=True)
class About:
    """What the page says of the whole experiment, beside what its files tell.

    tiny: whether its models are too small to be compared with the paper's; facts: name -> text.
    """

    title: str = "Results"
    tiny: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A section of the page: a table with its charts and runs."""

    title: str
    anchor: str
    grid: Grid
    tables: list[Table]
    bars: list[charts.Bars]
    sweep: list[charts.Panel]
    groups: list[Group]
    downloads: list[tuple[str, str]]
    examples: list[tuple[str, str]]
    main: list[Main]


def build_page(
    sheets: list[Path],
    runs: str | Path,
    paper: str | Path,
    out: str | Path,
    planned: Mapping[str, Planned] | None = None,
    coverage_files: Mapping[str, Path] | None = None,
    states: Iterable[Path] = (),
    about: About | None = None,
) -> None:
    """Write `tidy.csv`, `numbers.tex`, `figures/*.svg|png` and a self-contained `index.html`.

    `planned`: run key -> run, of the whole plan; `coverage_files`: dataset version -> coverage.csv;
    `states`: folders of the runs' attempts. Figures: `difference`, `coverage`, `cost`,
    `curves-<stage>`, and one named after each table that sweeps. Missing files are left out, as
    runs that have not ended are `not run` in the tables. The page links files beside it only.
    """
    out, about, planned = Path(out), about or About(), planned or {}
    contents = [read_sheet(path) for path in sheets]
    numbers = read_paper(paper)
    tidy = build_tidy(contents, runs)
    stages = {s: {k: p.name for k, p in planned.items() if p.stage == s} for s in STAGES}
    costs = read_costs([key for keys in stages.values() for key in keys], runs)
    write_tidy(out / "tidy.csv", tidy)
    folders = Folders(runs, out, planned)
    every: list[Entry] = []
    sections: list[Section] = []
    figures = {}
    anchors = _anchors(sheet.title for sheet in contents)
    for sheet, anchor in zip(contents, anchors, strict=True):
        entries, grid = table_views(sheet, tidy, numbers, costs)
        every.extend(entries)
        sections.append(_section(sheet, entries, grid, folders, anchor))
        if sheet.sweep:
            figures[sheet.table] = sweep(sheet, entries)
    write_text(out / "numbers.tex", to_numbers(every))
    spent = {
        stage: {name: costs[key] for key, name in keys.items() if key in costs}
        for stage, keys in stages.items()
    }
    curves = {stage: _curves(runs, keys) for stage, keys in stages.items()}
    covered = _coverage(coverage_files)
    figures["difference"] = figures_compare.differences(every)
    figures["cost"] = cost_figure(spent)
    for stage, frames in curves.items():
        if frames:
            figures[f"curves-{stage}"] = figures_data.curves(frames, f"Training: {stage}")
    if covered is not None:
        figures["coverage"] = figures_data.coverage(covered)
    for name, figure in figures.items():
        save(figure, out / "figures" / name)
    trained = sum(map(len, stages.values()))
    html = html_page(
        "index",
        title=about.title,
        tiny=about.tiny,
        facts={**about.facts, **facts(tidy, states, costs, trained)},
        tally=tally(every),
        sections=sections,
        differences=charts.differences(every),
        coverage=charts.coverage(covered or {}),
        coverage_parts=list(figures_data.LOOKS),
        cost=charts.cost_bars(spent),
        cost_parts=list(STAGES),
        curves={stage: charts.curves(frames) for stage, frames in curves.items() if frames},
        examples=list(folders.looked_at()),
    )
    write_text(out / "index.html", html)


def _section(
    sheet: Sheet, entries: list[Entry], grid: Grid, folders: Folders, anchor: str
) -> Section:
    groups = groups_of(sheet, folders, anchor)

    def link(row: str, dataset: str) -> str:
        return f"#{groups[row, dataset].anchor}" if (row, dataset) in groups else ""

    folder = folders.out / "tables" / sheet.table
    return Section(
        title=grid.title,
        anchor=anchor,
        grid=grid,
        tables=tables_of(sheet, entries, link),
        bars=[] if sheet.sweep else charts.bars(sheet, entries, link),
        sweep=charts.sweep(sheet, entries) if sheet.sweep else [],
        groups=list(groups.values()),
        downloads=[
            (text, os.path.relpath(folder / name, folders.out))
            for name, text in DOWNLOADS.items()
            if (folder / name).is_file()
        ],
        examples=_examples(groups.values()),
        main=main_numbers(sheet, entries, link),
    )


def _examples(groups: Iterable[Group]) -> list[tuple[str, str]]:
    """Return the pages of examples of a table's evaluations, each once."""
    found: dict[str, str] = {}
    for group in groups:
        for behind in group.runs:
            for text, address in behind.runs[0].files:
                if text == "examples":
                    name = ", ".join(filter(None, (group.row, group.dataset, behind.of)))
                    found.setdefault(address, name)
    return [(text, address) for address, text in found.items()]


def _curves(runs: str | Path, names: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Return the curves of trainings that have one, by name."""
    files = {name: Path(runs, key, "metrics.jsonl") for key, name in names.items()}
    there = {name: path for name, path in files.items() if path.is_file()}
    for path in there.values():
        check_recorded(path)
    return {name: figures_data.read_curve(path) for name, path in there.items()}


def _coverage(files: Mapping[str, Path] | None) -> dict[str, pd.DataFrame] | None:
    if files is None:
        return None
    return {name: read_coverage(path) for name, path in files.items() if Path(path).is_file()}


def _anchors(headings: Iterable[str]) -> list[str]:
    """Return an id for each heading, made of its letters and digits; no two are the same."""
    anchors: list[str] = list(RESERVED)
    for heading in headings:
        anchor = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"
        anchors.append(f"{anchor}-{len(anchors) + 1}" if anchor in anchors else anchor)
    return anchors[len(RESERVED) :]

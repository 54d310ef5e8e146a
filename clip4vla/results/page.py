"""The results page: tables, figures and curves in one self-contained file."""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from clip4vla.common.files import write_text
from clip4vla.media.coverage_file import read_coverage
from clip4vla.results.compare import Entry
from clip4vla.results.cost import read_costs
from clip4vla.results.figures import encoded, save
from clip4vla.results.figures_compare import bars, differences
from clip4vla.results.figures_cost import cost_figure
from clip4vla.results.figures_data import coverage, curves, read_curve
from clip4vla.results.figures_sweep import sweep
from clip4vla.results.layout import Grid
from clip4vla.results.numbers import to_numbers
from clip4vla.results.paper import read_paper
from clip4vla.results.render import html_page
from clip4vla.results.sheet import read_sheet
from clip4vla.results.tables import table_views
from clip4vla.results.tidy import build_tidy, write_tidy
from clip4vla.tracking.recorded import check_recorded


def build_page(
    sheets: list[Path],
    runs: str | Path,
    paper: str | Path,
    out: str | Path,
    curve_files: Mapping[str, Mapping[str, Path]] | None = None,
    coverage_files: Mapping[str, Path] | None = None,
    trainings: Mapping[str, Mapping[str, str]] | None = None,
    title: str = "CLIP4VLA, reproduced",
    links: Mapping[str, str] | None = None,
) -> None:
    """Write `tidy.csv`, `numbers.tex`, `figures/*.svg|png` and a self-contained `index.html`.

    `curve_files`: stage -> run label -> metrics.jsonl; `coverage_files`: dataset version ->
    coverage.csv; `trainings`: stage -> run key -> run label, whose costs are summed up; `links`:
    text -> address, relative to `out`, of example pages. Figures: `difference`, `coverage`,
    `cost`, `curves-<stage>`, and one named after each table that sweeps. Missing files are left
    out, as runs that have not ended are `not run` in the tables.
    """
    out = Path(out)
    contents = [read_sheet(path) for path in sheets]
    numbers = read_paper(paper)
    tidy = build_tidy(contents, runs)
    trainings = trainings or {}
    costs = read_costs([key for keys in trainings.values() for key in keys], runs)
    write_tidy(out / "tidy.csv", tidy)
    every: list[Entry] = []
    sections: list[_Section] = []
    for sheet in contents:
        entries, grid = table_views(sheet, tidy, numbers, costs)
        every.extend(entries)
        images = [_image(encoded(bars(sheet, entries), "svg"), f"{sheet.title}: bars")]
        if sheet.sweep:
            svg = save(sweep(sheet, entries), out / "figures" / sheet.table)
            images.append(_image(svg, f"{sheet.title}: the sweep"))
        sections.append(_Section(sheet.title, grid, images))
    for name, heading, figure in _figures(every, curve_files or {}, coverage_files):
        svg = save(figure, out / "figures" / name)
        sections.append(_Section(heading, images=[_image(svg, heading)]))
    write_text(out / "numbers.tex", to_numbers(every))
    spent = {
        stage: {label: costs[key] for key, label in keys.items() if key in costs}
        for stage, keys in trainings.items()
    }
    svg = save(cost_figure(spent), out / "figures" / "cost")
    sections.append(_Section("Cost", images=[_image(svg, "Cost of the trainings")]))
    if links:
        sections.append(_Section("Examples", links=links))
    anchors = _anchors(section.heading for section in sections)
    sections = [
        section._replace(anchor=anchor) for section, anchor in zip(sections, anchors, strict=True)
    ]
    write_text(out / "index.html", html_page("index", title=title, sections=sections))


class _Section(NamedTuple):
    """A section of the page. images: (text, SVG in base64); links: text -> address."""

    heading: str
    grid: Grid | None = None
    images: Sequence[tuple[str, str]] = ()
    links: Mapping[str, str] = {}
    anchor: str = ""


def _figures(
    entries: list[Entry],
    curve_files: Mapping[str, Mapping[str, Path]],
    coverage_files: Mapping[str, Path] | None,
) -> Iterator[tuple[str, str, Figure]]:
    yield "difference", "Difference to the paper", differences(entries)
    for stage, files in sorted(curve_files.items()):
        there = {label: path for label, path in files.items() if Path(path).is_file()}
        for path in there.values():
            check_recorded(path)
        frames = {label: read_curve(path) for label, path in there.items()}
        if frames:
            yield f"curves-{stage}", f"Curves: {stage}", curves(frames, f"Training: {stage}")
    if coverage_files is None:
        return
    frames = {
        name: read_coverage(path) for name, path in coverage_files.items() if Path(path).is_file()
    }
    yield "coverage", "Coverage of the data", coverage(frames)


def _image(svg: bytes, text: str) -> tuple[str, str]:
    return text, base64.b64encode(svg).decode()


def _anchors(headings: Iterable[str]) -> list[str]:
    """Return an id for each heading, made of its letters and digits; no two are the same."""
    anchors: list[str] = []
    for heading in headings:
        anchor = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"
        anchors.append(f"{anchor}-{len(anchors) + 1}" if anchor in anchors else anchor)
    return anchors

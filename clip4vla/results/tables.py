"""One table in every format, made from its sheet, the runs' metrics and paper.tsv."""

from pathlib import Path

import pandas as pd

from clip4vla.common.files import write_text
from clip4vla.results.cells import tables_of
from clip4vla.results.compare import Entry, as_frame, compare
from clip4vla.results.cost import Cost, read_costs
from clip4vla.results.figures import save
from clip4vla.results.figures_compare import bars
from clip4vla.results.layout import Grid, build_grid
from clip4vla.results.paper import Published, read_paper
from clip4vla.results.pretraining import cost_entries
from clip4vla.results.render import to_html, to_latex, to_markdown
from clip4vla.results.sheet import Sheet, read_sheet
from clip4vla.results.spreadsheet import spreadsheet_csv
from clip4vla.results.tidy import build_tidy, write_tidy


def build_table(sheet: str | Path, runs: str | Path, paper: str | Path, out: str | Path) -> None:
    """Write a table into the folder `out`.

    Files: `tidy.csv` (every metric of its runs), `table.csv` (ours against the paper, number by
    number), `table.md`, `table.html`, `table.tex`, `bars.svg`, `bars.png`. Runs that have not
    ended are marked `not run`. Raises UserError for a broken sheet, metrics file or paper.tsv.
    """
    out = Path(out)
    content = read_sheet(sheet)
    tidy = build_tidy([content], runs)
    numbers = read_paper(paper)
    costs = read_costs(content.trainings, runs)
    entries, grid = table_views(content, tidy, numbers, costs)
    write_tidy(out / "tidy.csv", tidy)
    write_text(out / "table.csv", spreadsheet_csv(as_frame(entries)))
    write_text(out / "table.md", to_markdown(grid))
    write_text(out / "table.html", to_html(grid, tables_of(content, entries)))
    write_text(out / "table.tex", to_latex(grid))
    save(bars(content, entries), out / "bars")


def row_text(sheet: Sheet, row: str, runs: str | Path, paper: str | Path) -> str:
    """Return the numbers of one row, ours and the paper's, as Markdown."""
    only = sheet.model_copy(update={"rows": [item for item in sheet.rows if item.row == row]})
    numbers = read_paper(paper)
    entries = compare(only, build_tidy([only], runs), numbers)
    mine = [entry for entry in entries if entry.row == row]
    costs = read_costs(sheet.trainings, runs) if sheet.costs else {}
    return to_markdown(build_grid(only, mine, numbers, costs))


def table_views(
    sheet: Sheet,
    tidy: pd.DataFrame,
    paper: list[Published],
    costs: dict[str, Cost] | None = None,
) -> tuple[list[Entry], Grid]:
    """Return the entries of a table, including its costs, and its layout."""
    entries = compare(sheet, tidy, paper)
    grid = build_grid(sheet, entries, paper, costs)
    return entries + cost_entries(sheet, paper, costs or {}), grid

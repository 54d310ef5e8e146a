"""Put the tables of config.yaml into README.md, with the runs that exist in this folder."""

import dataclasses
import sys
from pathlib import Path

from clip4vla.common.files import write_text
from clip4vla.config.planner import make_plan
from clip4vla.results.cost import read_costs
from clip4vla.results.paper import read_paper
from clip4vla.results.render import to_markdown
from clip4vla.results.sheet import Sheet
from clip4vla.results.tables import table_views
from clip4vla.results.text import markdown
from clip4vla.results.tidy import build_tidy

REPO = Path(__file__).resolve().parents[2]
BEGIN = "<!-- tables: begin (generated: `python workflow/scripts/readme_tables.py`) -->\n"
END = "<!-- tables: end -->"


def tables(runs: Path) -> str:
    """The target tables of config.yaml as Markdown; those without any number yet by title alone."""
    plan = make_plan([REPO / "config.yaml"])
    paper = read_paper(plan.config.paper)
    parts, empty, dash = [], [], ""
    for name in plan.tables:
        sheet = Sheet.model_validate(plan.sheet(name))
        costs = read_costs(sheet.trainings, runs)
        entries, grid = table_views(sheet, build_tidy([sheet], runs), paper, costs)
        if all(entry.ours is None and entry.paper is None for entry in entries):
            empty.append(f"* [{markdown(sheet.title)}](experiments/{name}.yaml)\n")
            continue
        dash = next(line for line in grid.footers if line.startswith("—"))
        # For a first look: what is still to run, line by line, is in the table itself.
        notes = tuple(line for line in grid.footers if line.startswith("Units"))
        grid = dataclasses.replace(grid, footers=notes)
        parts.append(to_markdown(grid).replace("\n# ", "\n### ").removeprefix("# "))
    text = "\n### ".join(["", *parts]) + f"\n{dash}\n"
    if empty:
        text += "\n### Without a number until they are run\n\n" + "".join(empty)
    return text


def main() -> None:
    """Rewrite README.md; with `--check` only say whether it is up to date."""
    readme = REPO / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    new = before + BEGIN + tables(Path("results/runs")) + END + after
    if "--check" in sys.argv:
        sys.exit(None if new == text else "README.md: tables out of date: run this script")
    write_text(readme, new)


if __name__ == "__main__":
    main()

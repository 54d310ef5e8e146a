"""Write the tables of config.yaml, with the runs of this folder, into README and docs/results.

The table of benchmarks/results.json goes into benchmarks/RESULTS.md. Rows there whose code has
changed since are marked; `--check` does not ask for the marks, because any change may want one.
"""

import dataclasses
import sys
from pathlib import Path

from clip4vla.common.files import read_json, write_text
from clip4vla.config.metrics import label_of
from clip4vla.config.plan import Plan
from clip4vla.config.planner import make_plan
from clip4vla.results.compare import Entry
from clip4vla.results.cost import read_costs
from clip4vla.results.layout import Grid
from clip4vla.results.paper import read_paper
from clip4vla.results.render import to_markdown
from clip4vla.results.sheet import Sheet
from clip4vla.results.tables import table_views
from clip4vla.results.text import markdown
from clip4vla.results.tidy import build_tidy

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "benchmarks"))
RUNS = Path("results/runs")
BEGIN = "<!-- tables: begin (generated: `python workflow/scripts/docs_tables.py`) -->\n"
END = "<!-- tables: end -->"
HEADLINES = {  # row and columns of README.md's table
    "table1": ("clip4vla", ("t2v_R1",)),
    "table2": ("clip4vla_av", ("t2v_R1",)),
    "table3": ("clip4vla", ("CIDEr",)),
    "table4": ("clip4vla", ("CIDEr",)),
    "table5": ("type_token", ("t2a_R1",)),
    "table6": ("clip4vla", ("accuracy",)),
}

Views = dict[str, tuple[Sheet, list[Entry], Grid]]


def views(plan: Plan) -> Views:
    """Return sheet, entries and layout of each target table."""
    paper = read_paper(plan.config.paper)
    found = {}
    for name in plan.tables:
        sheet = Sheet.model_validate(plan.sheet(name))
        costs = read_costs(sheet.trainings, RUNS)
        found[name] = (sheet, *table_views(sheet, build_tidy([sheet], RUNS), paper, costs))
    return found


def all_tables(tables: Views) -> str:
    """Return all tables as Markdown; those without any number yet by title alone."""
    parts, empty, dash = [], [], ""
    for name, (sheet, entries, grid) in tables.items():
        if all(entry.ours is None and entry.paper is None for entry in entries):
            empty.append(f"* [{markdown(sheet.title)}](../experiments/{name}.yaml)\n")
            continue
        dash = next(line for line in grid.footers if line.startswith("—"))
        # For a first look: what is still to run, line by line, is in the table itself.
        notes = tuple(line for line in grid.footers if line.startswith("Units"))
        grid = dataclasses.replace(grid, footers=notes)
        parts.append(to_markdown(grid).replace("\n# ", "\n## ").removeprefix("# "))
    text = "\n## ".join(["", *parts]) + f"\n{dash}\n"
    if empty:
        text += "\n## Without a number until they are run\n\n" + "".join(empty)
    return text


def headlines(tables: Views) -> str:
    """Return one number of the paper and ours for each of its tables and datasets."""
    lines = ["", "| table of CLIP4VLA's paper | | paper | ours |", "| --- | --- | ---: | ---: |"]
    for name, (row, metrics) in HEADLINES.items():
        sheet, entries, _ = tables[name]
        for entry in entries:
            if entry.kind == "ours" and entry.row == row and entry.metric in metrics:
                ours = entry.verdict if entry.ours is None else f"{entry.ours:.1f}"
                what = f"{sheet.dataset_label(entry.dataset)} {label_of(entry.metric)}"
                lines.append(f"| {markdown(sheet.title)} | {what} | {entry.paper} | {ours} |")
    return "\n".join(lines) + "\n\n"


def main() -> None:
    """Rewrite the files; with `--check` only say whether they are up to date."""
    from bench.table import OLDER
    from bench.table import markdown as benchmarks

    recorded = read_json(REPO / "benchmarks" / "results.json")  # on a CPU, on a GPU
    tables = views(make_plan([REPO / "config.yaml"]))
    wanted = {
        REPO / "docs" / "results.md": all_tables(tables),
        REPO / "README.md": headlines(tables),
        REPO / "benchmarks" / "RESULTS.md": "\n".join(map(benchmarks, recorded.values())) + "\n",
    }
    for path, content in wanted.items():
        text = path.read_text()
        before, rest = text.split(BEGIN)
        new = before + BEGIN + content + END + rest.split(END)[1]
        if "--check" not in sys.argv:
            write_text(path, new)
        elif new.replace(OLDER, "") != text.replace(OLDER, ""):
            sys.exit(f"{path.name}: tables out of date. Fix: run {Path(__file__).name}")


if __name__ == "__main__":
    main()

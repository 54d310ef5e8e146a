"""Stages after the runs: sheets, tables, page and report.

Snakemake treats any existing output as up to date. So tables that are built by hand from unfinished
runs go into another folder than the outputs of rules.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.common.extras import require
from clip4vla.common.files import json_text, whole_file, write_text
from clip4vla.common.late_packages import without_collection
from clip4vla.config import layout
from clip4vla.config.layout import RESULTS
from clip4vla.config.plan import Plan
from clip4vla.config.targets import check_target
from clip4vla.stages.tracking import TABLES
from clip4vla.tracking.attempts import attempt

if TYPE_CHECKING:
    from clip4vla.results.page import About

RUNS = RESULTS / "runs"


def sheet(plan: Plan, table: str) -> str:
    """Return the sheet of a table, the contents of rows.json."""
    if table not in plan.tables:
        hint = did_you_mean(table, plan.tables)
        raise UserError(f"no table {table!r} among the targets of this config{hint}")
    return json_text(plan.sheet(table))


def build(plan: Plan, table: str | None, out: Path) -> list[Path]:
    """Build one table or all into out/tables/<table>/; return their pages."""
    with without_collection():
        from clip4vla.results.tables import build_table

    pages = []
    for name in plan.tables if table is None else [table]:
        path = _sheet_file(plan, name, out)
        build_table(path, RUNS, plan.config.paper, path.parent)
        pages.append(path.parent / "table.html")
    return pages


def row(plan: Plan, table: str, row: str) -> str:
    """Return the numbers of one row as Markdown."""
    from clip4vla.results.sheet import Sheet
    from clip4vla.results.tables import row_text

    check_target(plan.tables, f"{table}/{row}", ())
    return row_text(Sheet.model_validate(plan.sheet(table)), row, RUNS, plan.config.paper)


def page(plan: Plan, out: Path) -> Path:
    """Write tidy.csv, figures and index.html of all tables; with a record in the rules' folder."""
    if out != RESULTS:
        return _page(plan, out)
    with attempt(Path(layout.state_dir(TABLES))):
        path = _page(plan, out)
        _record(plan)
    return path


def _page(plan: Plan, out: Path) -> Path:
    with without_collection():
        from clip4vla.results.behind import Planned
        from clip4vla.results.page import build_page

    names = plan.names()
    build_page(
        [_sheet_file(plan, table, out) for table in plan.tables],
        RUNS,
        plan.config.paper,
        out,
        planned={
            key: Planned(names[key], run.stage, tuple(plan.parents(key)))
            for key, run in sorted(plan.runs.items())
        },
        coverage_files={
            version: Path(layout.data_dir(version), "coverage.csv")
            for version in sorted(plan.versions)
        },
        states=[Path(layout.state_dir(key)) for key in sorted(plan.runs)],
        about=_about(plan),
    )
    return out / "index.html"


def _about(plan: Plan) -> "About":
    """Return what the top of the page says of the plan."""
    from clip4vla.results.page import About

    models = {run.model.TITLE: run.model.is_demo for run in plan.runs.values()}
    tables, systems = ", ".join(plan.tables), [title.split(":")[0] for title in sorted(models)]
    tiny = bool(models) and all(models.values())
    title = f"{'Tiny models of' if tiny else 'Results of'} {' and '.join(systems) or 'no run'}"
    given = {"Experiment": tables, "Preset": plan.config.preset}
    uri = plan.config.tracking.uri or ""  # the config refuses one with a password
    if plan.config.tracking.sink != "off" and uri.startswith(("http://", "https://")):
        given["MLflow"] = uri
    return About(title=title, tiny=tiny, facts=given)


def _record(plan: Plan) -> None:
    """Write the record of the tables for MLflow."""
    from clip4vla.tracking import write_record

    tables = [
        RESULTS / "tables" / table / f"table.{kind}"
        for table in plan.tables
        for kind in ("md", "csv")
    ]
    tables += [RESULTS / "index.html", RESULTS / "numbers.tex"]
    write_record(
        RESULTS / "record.json",
        kind="tables",
        key=TABLES,
        name="tables " + " ".join(plan.tables),
        params={"targets": list(plan.tables), "preset": plan.config.preset},
        tags={"stage": "tables"},
        metrics={
            "rows": float(sum(len(table.rows) for table in plan.tables.values())),
            "evaluations": float(len(plan.stage("evaluate"))),
        },
        artifacts=[*tables, *map(Path, layout.figures(plan, "png"))],
        inputs=sorted({cell.run_key for cell in plan.cells}),
    )


def report(plan: Plan, snakefile: Path, config_files: list[Path], values: str | None) -> None:
    """Write Snakemake's report of the finished tables to report.zip.

    snakefile: the workflow's, or one that uses it as a module, perhaps under other names of rules.
    """
    require("workflow", "tables report")
    with whole_file(RESULTS / "report.zip") as temporary:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--nolock"]
        # The first file is the workflow's own config, which the Snakefile reads by itself.
        if len(config_files) > 1:
            command += ["--configfile", *map(str, config_files[1:])]
        if values:
            overrides = json.loads(values).items()
            command += ["--config", *(f"{key}={json.dumps(value)}" for key, value in overrides)]
        # Snakemake goes by the suffix and names the folder inside the archive after the file.
        made = temporary.parent / ".report" / "report.zip"
        made.parent.mkdir(exist_ok=True)
        targets = [*layout.table_outputs(plan), *layout.scores(plan)]
        done = subprocess.run([*command, "--report", str(made), "--", *targets], check=False)
        if done.returncode:
            raise UserError(f"snakemake --report: exit code {done.returncode}. Fix: see above")
        made.replace(temporary)


def _sheet_file(plan: Plan, table: str, out: Path) -> Path:
    """Write the table's rows.json under `out`, unless it is up to date, and return its path."""
    path, text = out / "tables" / table / "rows.json", sheet(plan, table)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path

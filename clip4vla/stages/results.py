"""The stages after the runs: sheets, tables, page and report."""

import json
import subprocess
import sys
from pathlib import Path

from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.config.targets import narrowed
from clip4vla.errors import UserError
from clip4vla.files import whole_file, write_json

RESULTS = Path("results")
RUNS = RESULTS / "runs"


def sheet(plan: Plan, table: str) -> None:
    """Which runs fill the cells of a table -> rows.json."""
    _known(plan, table)
    write_json(_folder(table) / "rows.json", plan.sheet(table))


def build(plan: Plan, table: str) -> None:
    """Sheet, metrics and paper.tsv -> the table in every format."""
    from clip4vla.results.tables import build_table

    _known(plan, table)
    build_table(_folder(table) / "rows.json", RUNS, plan.config.paper, _folder(table))


def row(plan: Plan, table: str, row: str) -> None:
    """The numbers of one row -> results/rows/<table>/<row>."""
    from clip4vla.results.sheet import Sheet
    from clip4vla.results.tables import write_row

    narrowed(plan, f"{table}/{row}")  # refuses what is not there
    sheet = Sheet.model_validate(plan.sheet(table))
    write_row(sheet, row, RUNS, plan.config.paper, Path(layout.row_file(table, row)))


def page(plan: Plan) -> None:
    """All tables -> tidy.csv, figures and index.html, with their record."""
    from clip4vla.results.page import build_page
    from clip4vla.tracking import write_record

    names = plan.names()
    build_page(
        [_folder(table) / "rows.json" for table in plan.tables],
        RUNS,
        plan.config.paper,
        RESULTS,
        curve_files={
            stage: {
                names[key]: Path(layout.result_dir(key), "metrics.jsonl")
                for key in plan.stage(stage)
            }
            for stage in layout.trained_stages(plan)
        },
        coverage_files={
            version: Path(layout.data_dir(version), "coverage.csv")
            for version in sorted(plan.versions)
        },
        trainings={
            stage: {key: names[key] for key in plan.stage(stage)}
            for stage in layout.trained_stages(plan)
        },
        links={
            f"{names[key]}: {what}": f"runs/{key}/{file}"
            for stage, what, file in (
                ("evaluate", "examples", "examples.html"),
                ("substitute", "silent clips and donors", "donors.html"),
            )
            for key in plan.stage(stage)
        },
    )
    tables = [_folder(table) / f"table.{kind}" for table in plan.tables for kind in ("md", "csv")]
    tables += [RESULTS / "index.html", RESULTS / "numbers.tex"]
    write_record(
        RESULTS / "record.json",
        kind="tables",
        key="tables",
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


def report(snakefile: Path, config_files: list[Path], values: str | None) -> None:
    """Snakemake's report of the finished tables -> report.zip."""
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
        done = subprocess.run([*command, "--report", str(made), "tables"], check=False)
        if done.returncode:
            raise UserError(f"snakemake --report failed with exit code {done.returncode}")
        made.replace(temporary)


def _folder(table: str) -> Path:
    return RESULTS / "tables" / table


def _known(plan: Plan, table: str) -> None:
    if table not in plan.tables:
        raise UserError(f"no table {table!r} among the targets: {', '.join(plan.tables)}")

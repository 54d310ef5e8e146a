"""The commands `clip4vla tables ...`: from metrics to tables, figures and pages."""

from pathlib import Path
from typing import Annotated

import typer

from clip4vla.commands.options import DEFAULT_CONFIG, ConfigFiles, Values, plan_of

tables = typer.Typer(no_args_is_help=True, help="From metrics to tables, figures and pages.")


@tables.command("sheet")
def tables_sheet(
    table: str, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Write which runs fill the cells of a table."""
    from clip4vla.stages import results as stage

    stage.sheet(plan_of(config_files, values), table)


@tables.command("build")
def tables_build(
    table: str, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Build one table (Markdown, HTML, LaTeX, CSV). Rows that have not run say so."""
    from clip4vla.stages import results as stage

    stage.build(plan_of(config_files, values), table)


@tables.command("row")
def tables_row(
    table: str, row: str, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Write the numbers of one row, ours and the paper's, to results/rows/TABLE/ROW."""
    from clip4vla.stages import results as stage

    stage.row(plan_of(config_files, values), table, row)


@tables.command("page")
def tables_page(config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None) -> None:
    """Draw the figures and put everything on one self-contained page, results/index.html."""
    from clip4vla.stages import results as stage

    stage.page(plan_of(config_files, values))


@tables.command("report")
def tables_report(
    snakefile: Annotated[Path, typer.Argument(help="The workflow's Snakefile.")],
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Write Snakemake's report of the finished tables to results/report.zip."""
    from clip4vla.stages import results as stage

    stage.report(snakefile, config_files, values)

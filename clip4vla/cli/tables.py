"""The commands `clip4vla tables ...`: from metrics to tables, figures and pages."""

from pathlib import Path
from typing import Annotated

import typer

from clip4vla.cli.options import DEFAULT_CONFIG, ConfigFiles, Values, checked_plan_of

tables = typer.Typer(no_args_is_help=True, help="From metrics to tables, figures and pages.")

TABLE = "A table of the config's targets, such as table5."
Table = Annotated[str, typer.Argument(help=TABLE)]
Out = Annotated[
    Path,
    typer.Option(
        help="Folder to write into. Not `results`: Snakemake treats existing outputs there as up "
        "to date."
    ),
]
PREVIEW = Path("results/preview")


@tables.command("sheet")
def tables_sheet(
    table: Table, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Print the runs that fill the cells of a table as JSON."""
    from clip4vla.stages import results as stage

    typer.echo(stage.sheet(checked_plan_of(config_files, values), table), nl=False)


@tables.command("build")
def tables_build(
    table: Annotated[str | None, typer.Argument(help=f"{TABLE} Default: all of them.")] = None,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
    out: Out = PREVIEW,
) -> None:
    """Build one table or all (Markdown, HTML, LaTeX, CSV). Missing rows are marked "not run"."""
    from clip4vla.stages import results as stage

    for path in stage.build(checked_plan_of(config_files, values), table, out):
        typer.echo(path)


@tables.command("row")
def tables_row(
    table: Table,
    row: Annotated[str, typer.Argument(help="A row of it, such as scratch.")],
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Print the numbers of one row, ours and the paper's."""
    from clip4vla.stages import results as stage

    typer.echo(stage.row(checked_plan_of(config_files, values), table, row), nl=False)


@tables.command("page")
def tables_page(
    config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None, out: Out = PREVIEW
) -> None:
    """Draw the figures, and write one self-contained page, index.html."""
    from clip4vla.stages import results as stage

    typer.echo(stage.page(checked_plan_of(config_files, values), out))


@tables.command("report")
def tables_report(
    snakefile: Annotated[Path, typer.Argument(help="The workflow's Snakefile.")],
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Write Snakemake's report of the finished tables to results/report.zip."""
    from clip4vla.stages import results as stage

    stage.report(snakefile, config_files, values)

"""The commands `clip4vla tables ...`: from metrics to tables, figures and pages."""

from pathlib import Path
from typing import Annotated

import typer

from clip4vla.cli.options import TABLE, ConfigSource, TableName, example, of_tables, with_options
from clip4vla.cli.place import folder, in_a_job
from clip4vla.common.errors import UserError
from clip4vla.config.layout import RESULTS

tables = typer.Typer(
    no_args_is_help=True,
    help="From metrics to tables, figures and pages.",
    epilog=example("tables sheet table5"),
)

PREVIEW = RESULTS / "preview"


def _not_of_rules(out: Path) -> Path:
    """Return the folder of an option. UserError for that of the rules, except in their jobs.

    Snakemake would treat tables of unfinished runs there as up to date, and rerun what is made of
    finished ones.
    """
    if not in_a_job() and out.resolve() == (folder() / RESULTS).resolve():
        raise UserError(
            f"--out {out}: only jobs of the workflow write there. Fix: name another folder, or "
            f"leave it out: {PREVIEW}"
        )
    return out


Out = Annotated[
    Path,
    typer.Option(
        help="Folder to write into. Not `results`, which jobs of the workflow write.",
        callback=_not_of_rules,
    ),
]


@tables.command("sheet", epilog=example("tables sheet table5"))
@with_options
def tables_sheet(source: ConfigSource, table: TableName) -> None:
    """Print the runs that fill the cells of a table as JSON."""
    from clip4vla.stages import results as stage

    typer.echo(stage.sheet(source.checked_plan(), table), nl=False)


@tables.command("build", epilog=example("tables build table5 --out preview"))
@with_options
def tables_build(
    source: ConfigSource,
    table: Annotated[
        str | None,
        typer.Argument(help=f"{TABLE} Default: all of them.", autocompletion=of_tables),
    ] = None,
    out: Out = PREVIEW,
) -> None:
    """Build one table or all (Markdown, HTML, LaTeX, CSV). Missing rows are marked "not run"."""
    from clip4vla.stages import results as stage

    for path in stage.build(source.checked_plan(), table, out):
        typer.echo(path)


@tables.command("row", epilog=example("tables row table5 scratch"))
@with_options
def tables_row(
    source: ConfigSource,
    table: TableName,
    row: Annotated[str, typer.Argument(help="A row of it, such as scratch.")],
) -> None:
    """Print the numbers of one row, ours and the paper's."""
    from clip4vla.stages import results as stage

    typer.echo(stage.row(source.checked_plan(), table, row), nl=False)


@tables.command("page", epilog=example("tables page --out preview"))
@with_options
def tables_page(source: ConfigSource, out: Out = PREVIEW) -> None:
    """Draw the figures, and write one self-contained page, index.html."""
    from clip4vla.stages import results as stage

    typer.echo(stage.page(source.checked_plan(), out))


@tables.command("report", epilog=example("tables report workflow/Snakefile"))
@with_options
def tables_report(
    source: ConfigSource,
    snakefile: Annotated[Path, typer.Argument(help="The workflow's Snakefile.")],
) -> None:
    """Write Snakemake's report of the finished tables to results/report.zip."""
    from clip4vla.stages import results as stage

    stage.report(source.plan(), snakefile, source.config_files, source.values)

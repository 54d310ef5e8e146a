"""The commands `clip4vla setup ...`: set up this project on a cluster."""

from typing import Annotated

import typer

from clip4vla.cli.options import example, with_options
from clip4vla.launch.profile import Cluster, check, install, render

setup = typer.Typer(
    no_args_is_help=True,
    help="Set this project up on a cluster.",
    epilog=example("setup slurm --account lab --partition gpu"),
)


@setup.command("slurm", epilog=example("setup slurm --account lab --partition gpu"))
@with_options
def setup_slurm(
    cluster: Cluster,
    name: Annotated[str, typer.Option(help="`snakemake --profile NAME`.")] = "slurm",
    replace: Annotated[bool, typer.Option(help="Overwrite an existing profile.")] = False,
    show: Annotated[bool, typer.Option(help="Print the profile without writing it.")] = False,
) -> None:
    """Write your copy of the Slurm profile, so that `snakemake --profile slurm all` works."""
    text = render(cluster)
    if show:
        typer.echo(text, nl=False)
        return
    check(cluster)
    path = install(text, name, replace)
    typer.echo(f"wrote {path}; edit it as you like. Next: snakemake --profile {name} -n all")

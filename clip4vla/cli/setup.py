"""The commands `clip4vla setup ...`: set up this project on a cluster."""

from typing import Annotated

import typer

setup = typer.Typer(no_args_is_help=True, help="Set this project up on a cluster.")


@setup.command("slurm")
def setup_slurm(
    account: Annotated[str, typer.Option(help="Account, if your cluster needs one.")] = "",
    partition: Annotated[str, typer.Option(help="Partition of jobs (see `sinfo`).")] = "",
    cpu_partition: Annotated[
        str, typer.Option(help="Partition of jobs without GPU, if another one.")
    ] = "",
    qos: Annotated[str, typer.Option(help="Quality of service, if your cluster needs one.")] = "",
    gpu_model: Annotated[str, typer.Option(help="Such as v100, if there are several models.")] = "",
    constraint: Annotated[str, typer.Option(help="Features that pre-training needs.")] = "",
    nodes: Annotated[int, typer.Option(min=1, help="Machines for pre-training.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="Of these machines.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads per GPU.")] = 8,
    minutes: Annotated[int, typer.Option(min=10, help="Longest time of one job.")] = 1440,
    mem_mb: Annotated[int, typer.Option(min=1000, help="Memory of these machines.")] = 64000,
    name: Annotated[str, typer.Option(help="`snakemake --profile NAME`.")] = "slurm",
    replace: Annotated[bool, typer.Option(help="Overwrite an existing profile.")] = False,
    show: Annotated[bool, typer.Option(help="Print the profile without writing it.")] = False,
) -> None:
    """Write your copy of the Slurm profile, so that `snakemake --profile slurm all` works."""
    from clip4vla.launch.profile import Cluster, check, install, render

    cluster = Cluster(
        account=account,
        partition=partition,
        cpu_partition=cpu_partition,
        qos=qos,
        gpu_model=gpu_model,
        constraint=constraint,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        threads=threads,
        minutes=minutes,
        mem_mb=mem_mb,
    )
    text = render(cluster)
    if show:
        typer.echo(text, nl=False)
        return
    check(cluster)
    path = install(text, name, replace)
    typer.echo(f"wrote {path}; edit it as you like. Next: snakemake --profile {name} -n all")

"""Figure of the device hours of trainings."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from clip4vla.results.cost import Cost
from clip4vla.results.figures import (
    BLUE,
    ORANGE,
    blank,
    heading,
    row_height,
    shared_legend,
    style,
    wrapped,
)

STAGES = {"pretrain": (BLUE, ""), "finetune": (ORANGE, "//")}
SHOWN = 30  # rows of tables; all others share one bar


def hours_by_row(stages: Mapping[str, Mapping[str, Cost]]) -> list[tuple[str, dict[str, float]]]:
    """Return the device hours of each stage by table/row, the largest first, and of the rest.

    `stages`: stage -> run label (table/row/dataset/seed) -> its cost.
    """
    hours: dict[str, dict[str, float]] = {}
    for stage, runs in stages.items():
        for label, cost in runs.items():
            own = hours.setdefault("/".join(label.split("/")[:2]), dict.fromkeys(STAGES, 0.0))
            own[stage] += cost.device_hours
    bars = sorted(hours.items(), key=lambda item: -sum(item[1].values()))
    if len(bars) > SHOWN:
        rest = [own for _, own in bars[SHOWN:]]
        others = {stage: sum(own[stage] for own in rest) for stage in STAGES}
        bars = [*bars[:SHOWN], (f"{len(rest)} more rows", others)]
    return bars


def cost_figure(stages: Mapping[str, Mapping[str, Cost]]) -> Figure:
    """Draw device hours by the row that needed a training first, summed over datasets and seeds.

    `stages`: stage -> run label (table/row/dataset/seed) -> its cost.
    """
    bars = hours_by_row(stages)
    devices = sorted({d for runs in stages.values() for c in runs.values() for d in c.hardware})
    with style():
        row = row_height((label for label, _ in bars), 0.26)
        figure = blank(8.0, 1.6 + row * max(len(bars), 2))
        axis = figure.subplots()
        begins = [0.0] * len(bars)
        for stage, (colour, hatch) in STAGES.items():
            widths = [own[stage] for _, own in bars]
            axis.barh(
                range(len(bars)),
                widths,
                left=begins,
                label=stage,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                height=0.6,
            )
            begins = [begin + width for begin, width in zip(begins, widths, strict=True)]
        for place, total in enumerate(begins):
            axis.text(
                total, place, f" {total:,.2g}" if total < 10 else f" {total:,.0f}", va="center"
            )
        axis.set_yticks(range(len(bars)), [wrapped(label) for label, _ in bars])
        axis.set_ylim(max(len(bars), 1) - 0.4, -0.6)
        axis.set_xlim(0, 1.12 * max([*begins, 1e-9]))
        unit = "hours times processes, all attempts; " + (", ".join(devices) or "none")
        axis.set_xlabel(wrapped(unit, 60))
        axis.grid(True, axis="x")
        axis.tick_params(axis="y", length=0)
        heading(figure, f"Cost of the trainings: {sum(begins):,.1f} device hours")
        if bars:
            shared_legend(figure, [axis], 2)
        else:
            axis.text(0, 0, "no training has ended yet", va="center")
    return figure

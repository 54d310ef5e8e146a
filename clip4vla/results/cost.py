"""Cost of the trainings behind a table, read from their `cost.json` and `train.json`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.config.layout import remake
from clip4vla.results.sheet import Sheet
from clip4vla.tracking.recorded import check_recorded


@dataclass(frozen=True)
class Cost:
    """Cost of one training: wall-clock hours, and hours times processes by device."""

    hours: float
    hardware: dict[str, float]
    attempts: int
    batch_size: int
    trained_parameters: int

    @property
    def device_hours(self) -> float:
        """Return the sum over devices: GPU hours, where every process has a GPU."""
        return sum(self.hardware.values())


def read_costs(run_keys: list[str], runs: str | Path) -> dict[str, Cost]:
    """Return the cost of each training that has ended, by run key.

    Raises UserError for a file that is not a cost.json or a train.json, and for a train.json that
    is another run's or has changed since. cost.json differs between equal runs: no record names it.
    """
    costs = {}
    for key in run_keys:
        try:
            path = Path(runs, key, "cost.json")
            cost = read_json(path)
            hours, hardware, attempts = cost["hours"], dict(cost["hardware"]), cost["attempts"]
            path = Path(runs, key, "train.json")
            training = read_json(path)
            check_recorded(path, key)
            costs[key] = Cost(
                hours=hours,
                hardware=hardware,
                attempts=attempts,
                batch_size=training["batch_size"],
                trained_parameters=training["trainable_parameters"],
            )
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a {path.name} ({error!r}). Fix: {remake(path)}") from None
    return costs


def cost_notes(sheet: Sheet, costs: dict[str, Cost]) -> list[str]:
    """Return the footer on device hours of the trainings behind the table's numbers."""
    ended = [costs[key] for key in sheet.trainings if key in costs]
    if not ended:
        return []
    return [
        f"Cost: {len(ended)} of {len(sheet.trainings)} trainings behind the table have ended, with "
        f"{spent(ended)} (processes times wall time, every attempt; tables share trainings, so "
        "costs of tables do not add up)."
    ]


def spent(costs: Iterable[Cost]) -> str:
    """Return the sum of costs by device, such as `3.0 h on A100`."""
    hardware: dict[str, float] = {}
    for cost in costs:
        for device, hours in cost.hardware.items():
            hardware[device] = hardware.get(device, 0.0) + hours
    return "; ".join(f"{_time(hours)} on {device}" for device, hours in sorted(hardware.items()))


def _time(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"

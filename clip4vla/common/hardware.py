"""The device and the CPU cores of a command: they decide how fast it is, not its results."""

import re
from dataclasses import dataclass

from clip4vla.common.errors import UserError
from clip4vla.common.options import option

DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")  # whether it is there is for torch to say


def no_device(name: object, reason: str = "torch cannot compute on it here") -> UserError:
    """Return the error for a device that cannot be used."""
    return UserError(f"device {name}: {reason}. Fix: give cpu, or leave it out")


@dataclass(frozen=True)
class Hardware:
    """A device, and the CPU cores of this process."""

    device: str | None = option(None, "Such as cpu or cuda:1; default: a GPU, if any.")
    threads: int = option(2, "CPU cores of this process.", min=1)

    def __post_init__(self) -> None:
        if self.device is not None and not DEVICE.fullmatch(self.device):
            raise no_device(self.device)

    def readers_on(self, device: str) -> int:
        """Return the cores that do not compute on a `cpu` or `cuda`: none."""
        return 0


@dataclass(frozen=True)
class ReadingHardware(Hardware):
    """Of the cores, some are processes that read clips, and the others are threads that compute."""

    readers: int | None = option(
        None,
        "Of these cores, the processes that read clips; the others compute. Default: a quarter on "
        "a CPU, three quarters beside a GPU.",
        min=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.readers is not None and self.readers >= self.threads:
            raise UserError(
                f"--readers {self.readers}: leaves none of {self.threads} cores to compute. Fix: "
                f"pass at most {self.threads - 1}, or more --threads"
            )

    def readers_on(self, device: str) -> int:
        """Return the processes that read clips for a `cpu` or `cuda`; 0: the reading is inline."""
        if self.readers is not None:
            return self.readers
        return self.threads // 4 if device == "cpu" else self.threads * 3 // 4


INLINE = ReadingHardware(threads=1)

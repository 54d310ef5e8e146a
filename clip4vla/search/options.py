"""The options of `clip4vla index`. Loads no torch: the command line shows them."""

from dataclasses import dataclass
from pathlib import Path

from clip4vla.common.hardware import Hardware
from clip4vla.common.options import option


@dataclass(frozen=True)
class IndexHardware(Hardware):
    """A device, and the processes that decode files beside it."""

    workers: int | None = option(
        None, "Processes that decode files; default: half of --threads.", min=1
    )

    def readers_on(self, device: str) -> int:
        """See `Hardware.readers_on`."""
        return self.workers or max(1, self.threads // 2)


@dataclass(frozen=True)
class IndexOptions:
    """What an index is made with. What is left out is as in the index that is already there."""

    checkpoint: str | None = option(
        None,
        "A file of this project, hf://OWNER/NAME, hf://OWNER/NAME@REVISION, or "
        "open_clip:ARCHITECTURE:TAG (or open_clip:ARCHITECTURE@FILE), which finds by pictures. "
        "Needed for a new index.",
    )
    out: Path | None = option(None, "The folder of the index; default: FOLDER.index beside it.")
    window: float | None = option(
        None, "Seconds of a window, the piece that a search finds; default: 10."
    )
    hop: float | None = option(None, "Seconds from one window to the next; default: --window.")
    both_tokens: bool = option(
        False, "Embed sounds as speech [VB] and as other sounds [NB], to choose when searching."
    )
    retry: bool = option(False, "Try broken files again, although they have not changed.")
    batch_size: int = option(64, "Frames and segments that pass a tower at once.", min=1)

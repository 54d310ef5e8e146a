"""The interface through which a running stage reports its progress."""

from pathlib import Path


class Tracker:
    """Receiver of a stage's reports; this base class ignores them."""

    def saved(self, curve_bytes: int) -> None:
        """Report that a checkpoint holds this much of metrics.jsonl, which no resume cuts back."""

    def finished(self, record: Path) -> None:
        """Report that the stage has finished and has written its record."""

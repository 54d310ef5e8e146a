"""What a running stage tells a tracker."""

from pathlib import Path


class Sink:
    """What a stage tells about itself; this one tells nobody."""

    def saved(self, curve_bytes: int) -> None:
        """This much of metrics.jsonl is in a checkpoint: a resumed run will not cut it back."""

    def finished(self, record: Path) -> None:
        """The stage is done and has written its record."""

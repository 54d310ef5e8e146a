"""A waveform that comes in pieces: a buffer between the steps that work on blocks."""

from collections.abc import Iterable, Iterator

import torch


class SampleBuffer:
    """A buffer of the samples [C, n] of a waveform that are still needed, by position."""

    def __init__(self) -> None:
        self.end = 0  # samples that have come so far
        self._begin = 0  # of the first one in `_pieces`
        self._pieces: list[torch.Tensor] = []

    def add(self, piece: torch.Tensor) -> None:
        """Take the next piece."""
        self._pieces.append(piece)
        self.end += piece.shape[1]

    def cut(self, start: int, stop: int) -> torch.Tensor:
        """Return samples `start` to `stop`, or to the end of those that have come."""
        if len(self._pieces) > 1:
            self._pieces = [torch.cat(self._pieces, dim=1)]
        return self._pieces[0][:, start - self._begin : max(stop - self._begin, 0)]

    def forget(self, start: int) -> None:
        """Drop the samples before `start`, or all that have come."""
        kept = self.cut(self._begin, self.end)
        rest = kept[:, min(start, self.end) - self._begin :]
        self._begin = self.end - rest.shape[1]
        # A view keeps all of its samples in memory, a copy of most of them takes time.
        self._pieces = [rest.clone() if 2 * rest.shape[1] < kept.shape[1] else rest]


def with_last(pieces: Iterable[torch.Tensor]) -> Iterator[tuple[bool, torch.Tensor]]:
    """Yield (whether it is the last, piece)."""
    pieces = iter(pieces)
    piece = next(pieces)
    for following in pieces:
        yield False, piece
        piece = following
    yield True, piece

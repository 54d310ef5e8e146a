"""Batches of clips and captions: which samples, in which order, and where a resumed epoch goes on.

The order is a function of (seed, epoch) (`clip4vla.loading.order`); the position in it is all the
state there is.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from clip4vla.common.errors import UserError
from clip4vla.loading.augmented import AugmentedSamples
from clip4vla.loading.frozen import FrozenSamples
from clip4vla.loading.loader import loader
from clip4vla.loading.order import dealt, epoch_order, mixed_order
from clip4vla.loading.processor import ClipProcessor, Processor
from clip4vla.loading.samples import ClipSamples, Sample
from clip4vla.loading.sampling import balanced_order


def batch_count(samples: int, batch_size: int) -> tuple[int, int]:
    """Return (steps of an epoch, samples of a step).

    The last incomplete batch of an epoch is left out; other samples are in it in the next epoch.
    With fewer samples than `batch_size` an epoch is one batch of all of them, which
    `clip4vla.training.small_batches` reports. Raises UserError for less than two: nothing can be
    told apart.
    """
    if samples < 2:
        raise UserError(
            f"{samples} training sample(s): a contrast needs 2. Fix: look at coverage.csv"
        )
    size = min(batch_size, samples)
    return samples // size, size


def chunked(positions: range, chunk: int) -> list[range]:
    """Return the positions of a batch in chunks of at most `chunk`."""
    return [positions[i : i + chunk] for i in range(0, len(positions), chunk)]


Samples = ClipSamples | FrozenSamples | AugmentedSamples


class MixedSamples(Dataset):
    """Samples of several sources, by (source, index)."""

    def __init__(self, sources: Sequence[Samples]):
        self.sources = sources

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return one sample."""
        source, index = key
        return self.sources[source][index]


class ClipBatches:
    """Batches of every epoch from one source, or from several in equal parts.

    `size` samples make a step, over all ranks; position p of an epoch belongs to rank p mod `world`
    (`clip4vla.loading.order.dealt`), so neither ranks nor workers change what a step holds.

    Samples are (clip, caption) pairs: two captions of a clip may meet in a batch, where each is a
    false negative of the other, as in the released code. targets_of: from a batch to its `target`.
    weights: of the samples of one source, which are then drawn with replacement (balanced).
    """

    def __init__(
        self,
        sources: Sequence[Samples],
        seed: int,
        batch_size: int,
        workers: int,
        device: torch.device,
        microbatch: int | None = None,
        rank: int = 0,
        world: int = 1,
        processor: Processor = ClipProcessor(),
        targets_of: Callable[[dict], torch.Tensor] | None = None,
        weights: np.ndarray | None = None,
    ):
        self.processor, self.targets_of, self.weights = processor, targets_of, weights
        self.sources, self.seed = sources, seed
        self.workers, self.device = workers, device
        self.rank, self.world = rank, world
        self.shards = [
            samples.cache.shard_of([clip_id for clip_id, _, _ in samples.items])
            for samples in sources
        ]
        self.samples = len(self.order(0))
        self.steps, self.size = batch_count(self.samples, batch_size)
        if self.size % world:
            raise UserError(
                f"optimiser.batch_size: {self.size} samples a step cannot be dealt evenly to "
                f"{world} ranks. Fix: take a multiple, or fewer ranks"
            )
        self.chunk = min(microbatch or self.size, self.size)

    def order(self, epoch: int) -> list[tuple[int, int]]:
        """Return (source, index) of every sample of an epoch."""
        if self.weights is not None:
            drawn, number = balanced_order(self.weights, self.shards[0], self.seed, epoch)
            if isinstance(self.sources[0], AugmentedSamples):
                drawn = self.sources[0].drawn(drawn, number)
            return [(0, int(i)) for i in drawn]
        if len(self.shards) == 1:
            return [(0, int(i)) for i in epoch_order(self.shards[0], self.seed, epoch)]
        return mixed_order(self.shards, self.seed, epoch)

    def __call__(self, epoch: int, consumed: int) -> Iterator[list[dict]]:
        """Yield this rank's batches of an epoch (from 0) after `consumed` samples, in chunks.

        A chunk has at most `microbatch` clips, and only the padding that these need. It names its
        `epoch`, so that what a task draws can depend on it.
        """
        for samples in self.sources:
            samples.set_epoch(epoch)
        order = self.order(epoch)
        starts = range(consumed, (self.steps - 1) * self.size + 1, self.size)
        own = [dealt(range(start + self.size), self.rank, self.world, start) for start in starts]
        batches = [chunked(positions, self.chunk) for positions in own]
        rows = [[order[i] for i in chunk] for chunks in batches for chunk in chunks]
        mixed = MixedSamples(self.sources)
        read = iter(loader(mixed, rows, self.workers, self.device, self.processor))
        for chunks in batches:
            yield [self._with_targets(next(read)) | {"epoch": epoch} for _ in chunks]

    def _with_targets(self, batch: dict) -> dict:
        return batch if self.targets_of is None else batch | {"target": self.targets_of(batch)}


class FeatureBatches:
    """Batches of features that were computed once, because their towers are frozen.

    batch_of: from indices of clips [B] to the features and targets of a batch. weights: see
    `ClipBatches`.
    """

    def __init__(
        self,
        clip_ids: list[str],
        batch_of: Callable[[torch.Tensor], dict],
        seed: int,
        batch_size: int,
        microbatch: int | None = None,
        weights: np.ndarray | None = None,
    ):
        self.clip_ids, self.batch_of, self.seed, self.weights = clip_ids, batch_of, seed, weights
        self.samples = len(clip_ids)
        self.steps, self.size = batch_count(self.samples, batch_size)
        self.chunk = min(microbatch or self.size, self.size)

    def __call__(self, epoch: int, consumed: int) -> Iterator[list[dict]]:
        """Yield batches of an epoch (from 0), in chunks: clip_id, features and targets."""
        order = self._order(epoch)
        for start in range(consumed, self.steps * self.size, self.size):
            chunks = chunked(range(start, start + self.size), self.chunk)
            yield [
                self._rows(torch.from_numpy(order[chunk.start : chunk.stop])) for chunk in chunks
            ]

    def _order(self, epoch: int) -> np.ndarray:
        one_shard = np.zeros(len(self.clip_ids), dtype=np.int64)
        if self.weights is not None:
            return balanced_order(self.weights, one_shard, self.seed, epoch)[0]
        return epoch_order(one_shard, self.seed, epoch)

    def _rows(self, index: torch.Tensor) -> dict:
        clips = [self.clip_ids[i] for i in index.tolist()]
        return {"clip_id": clips, **self.batch_of(index)}

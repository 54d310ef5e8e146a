"""Which clips of a split are read, with which sound, and the loader that reads them."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from clip4vla.cache.clips import ClipCache
from clip4vla.common.errors import UserError
from clip4vla.common.parquet import read_text_table
from clip4vla.common.progress import track
from clip4vla.config.data import DONORS_BY, AudioPolicy, Neighbours
from clip4vla.config.layout import remake
from clip4vla.config.run import Source
from clip4vla.config.sections import Inputs, Masking, Modality
from clip4vla.datasets.leaks import Leaks
from clip4vla.loading.processor import ClipProcessor, Processor
from clip4vla.loading.samples import Clips, ClipSamples, Item

if TYPE_CHECKING:
    import pandas as pd

Manifests = dict[tuple[str, str], Path]
DonorTables = Mapping[Neighbours, Path | None]  # substitution.tsv, by the space of neighbours
DONOR_COLUMN = {name: "random_donor" if name == "random" else "donor" for name in DONORS_BY}
DONOR_COLUMNS = ["clip_id", "donor", "cosine", "random_donor"]  # of substitution.tsv


class Caches:
    """The caches behind the manifests of a run, each opened once.

    `leaks`: clips that pre-training leaves out, if the run is one. `check_every`: see `ClipCache`;
    what reads every clip once checks each.
    """

    def __init__(self, manifests: Manifests, leaks: Leaks | None = None, check_every: int = 1):
        self.manifests, self.leaks, self.check_every = manifests, leaks, check_every
        self.opened: dict[tuple[str, str], ClipCache] = {}

    def __getitem__(self, source: Source) -> ClipCache:
        """Return the cache of a source. Raises UserError when no manifest was given for it."""
        key = (source.dataset, source.cache_id)
        if key not in self.opened:
            if key not in self.manifests:
                raise UserError(
                    f"{source.dataset}: no manifest of its cache {key[1]} was given. Fix: give "
                    "that of every source"
                )
            self.opened[key] = ClipCache(self.manifests[key], self.check_every)
        return self.opened[key]

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of every opened manifest: the data behind a result."""
        return {
            f"{version}/cache-{cache_id}": cache.manifest_sha256
            for (version, cache_id), cache in sorted(self.opened.items())
        }


def split_rows(cache: ClipCache, source: Source) -> "pd.DataFrame":
    """Return clip_id, captions, labels of a split's usable clips. UserError if there are none."""
    rows = cache.splits[cache.splits.split == source.split]
    if rows.empty:
        raise UserError(
            f"{source.dataset}: split {source.split!r} has no usable clip. "
            "Fix: look at its coverage.csv"
        )
    return rows


def clip_items(rows: "pd.DataFrame") -> list[Item]:
    """Return one item per clip, for features that do not depend on a caption."""
    return [
        (clip_id, "", labels) for clip_id, labels in zip(rows.clip_id, rows["labels"], strict=True)
    ]


def pair_items(rows: "pd.DataFrame", where: str) -> list[Item]:
    """Return one item per (clip, caption). Raises UserError for a clip without a caption."""
    for clip_id, captions in zip(rows.clip_id, rows.captions, strict=True):
        if len(captions) == 0:
            raise UserError(f"{where}: clip {clip_id} has no caption. Fix: correct its annotation")
    return [
        (clip_id, caption, ())
        for clip_id, captions in zip(rows.clip_id, rows.captions, strict=True)
        for caption in captions
    ]


def read_donors(tables: DonorTables, policy: AudioPolicy) -> dict[str, str]:
    """Return the donor of every silent clip under a policy of `DONORS_BY`; {} for others.

    Raises UserError when the policy needs a substitution and none was given, and for an invalid
    file.
    """
    if policy not in DONOR_COLUMN:
        return {}
    substitution = tables.get(DONORS_BY[policy])
    if substitution is None:
        raise UserError(
            f"missing_audio: {policy} needs the substitution.tsv of a substitute run. Fix: give it"
        )
    table = read_text_table(substitution, remake(substitution), DONOR_COLUMNS, separator="\t")
    return dict(zip(table.clip_id, table[DONOR_COLUMN[policy]], strict=True))


def samples_of(
    cache: ClipCache,
    items: list[Item],
    source: Source,
    inputs: Inputs,
    modalities: Iterable[Modality],
    policy: AudioPolicy,
    donors: dict[str, str] | None = None,
    masking: Masking | None = None,
    seed: int = 0,
    training: bool = False,
) -> ClipSamples:
    """Return samples of a source under a policy for silent clips. UserError if none is left."""
    samples = ClipSamples(
        cache,
        items,
        inputs,
        nonverbal_share=source.nonverbal_share,
        donor_of=donors,
        missing=policy,
        masking=masking,
        seed=seed,
        modalities=tuple(modalities),
        training=training,
    )
    if not len(samples):
        raise UserError(
            f"{source.dataset}: no clip of split {source.split!r} has sound, and missing_audio "
            "is filter. Fix: choose another policy"
        )
    return samples


class _Loader(DataLoader):
    """A loader whose workers' UserErrors stay one line, without the traceback that torch adds."""

    def __iter__(self) -> Iterator[dict]:  # type: ignore[override]  # private
        read = super().__iter__()
        try:
            yield from read
        except UserError as error:
            text = str(error.args[0])
            told = text.rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")[2]
            raise UserError(*(told.strip() or text).split("\n")) from None
        finally:
            if isinstance(read, _MultiProcessingDataLoaderIter):
                read._shutdown_workers()  # at once: a traceback may keep `read` until exit


def loader(
    samples: Dataset,
    batches: list,
    workers: int,
    device: torch.device,
    processor: Processor = ClipProcessor(),
) -> DataLoader:
    """Return a loader of given batches of indices.

    workers: processes; with 0 it reads inline, as it does for samples that are `in_memory`.
    Samples may have a `collate` of their own, instead of the processor's.
    Its own generator keeps torch's global one out of it, on which dropout of a resumed run depends.
    """
    inline = getattr(samples, "in_memory", False)
    return _Loader(
        samples,
        batch_sampler=batches,
        collate_fn=getattr(samples, "collate", processor.collate),
        num_workers=0 if inline else workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),
    )


def in_order(count: int, size: int) -> list[list[int]]:
    """Return the indices 0 .. count - 1 in batches."""
    return [list(range(i, min(i + size, count))) for i in range(0, count, size)]


Part = tuple[int, int]  # (rank, world): every world-th batch, from number `rank` on
WHOLE: Part = (0, 1)


def batches_of(
    samples: Clips,
    size: int,
    workers: int,
    device: torch.device,
    processor: Processor,
    part: Part = WHOLE,
    description: str = "embed clips",
) -> Iterator[tuple[int, dict]]:
    """Yield the samples in order, in numbered batches, or only one rank's part of the batches.

    Whatever the number of ranks, a batch has the same samples, and so its features the same bits.
    """
    rank, world = part
    batches = in_order(len(samples), size)
    numbers = range(rank, len(batches), world)
    read = loader(samples, batches[rank::world], workers, device, processor)
    yield from track(zip(numbers, read, strict=True), description, len(numbers))


def _ignore_signals(worker: int) -> None:
    """Ignore what Slurm and Ctrl-C send to the whole job: the parent ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """Kill workers that an error has left behind: they ignore SIGTERM, and exit would wait."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report the killed ones
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()

"""The job of a training run, and what the jobs of all tasks are set up from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from clip4vla.cache.clips import ClipCache
from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.errors import UserError
from clip4vla.config.data import DONORS_BY, AudioPolicy
from clip4vla.config.run import Finetune, Pretrain, Source
from clip4vla.loading.batches import ClipBatches, Samples
from clip4vla.loading.loader import Caches, Part, read_donors, samples_of, split_rows
from clip4vla.loading.processor import Processor
from clip4vla.loading.samples import ClipSamples, Item
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.task import Task
from clip4vla.models.family import family_of
from clip4vla.training.loop import Batches
from clip4vla.training.ranks import Ranks
from clip4vla.training.switches import Switches
from clip4vla.training.validation import ClipsToScore, NoValidation, Validation

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class External:
    """External inputs of a run: data, initial weights, donors, and the hardware."""

    caches: Caches
    initial_weights: Path | None
    weights: dict[str, Path]
    substitution: Path | None
    device: torch.device
    workers: int
    ranks: Ranks = Ranks()
    switches: Switches = Switches()

    @property
    def part(self) -> Part:
        """This rank's part of the batches of clips to validate on."""
        return self.ranks.rank, self.ranks.world


@dataclass(frozen=True)
class Job:
    """A task, its batches and its validation. facts: counts of the data, for train.json."""

    task: Task
    batches: Batches
    facts: dict[str, Any]
    validation: Validation = field(default_factory=NoValidation)
    classes: list[str] | None = None


def trained_model(
    run: Pretrain | Finetune, external: External, n_classes: int | None = None
) -> ClipModel:
    """Build the run's model on its device, with its initial weights, ready to be trained."""
    model = initial_model(
        run.model,
        run.inputs,
        external.initial_weights,
        external.weights,
        task=run.task if isinstance(run, Finetune) else None,
        n_classes=n_classes,
        seed=run.seed,
    )
    family_of(run.model.family).prepare(model, run)
    return model.to(external.device)


class HeldOut(NamedTuple):
    """The clips that are scored after each epoch, and the policy for silent ones among them."""

    source: Source
    policy: AudioPolicy
    rows: "pd.DataFrame"


def splits_of(
    run: Finetune, external: External
) -> tuple[ClipCache, "pd.DataFrame", HeldOut | None]:
    """Return the training cache, the rows of train, and the clips to score; None: no clips."""
    cache = external.caches[run.train]
    if run.selection == "best_val" and run.val is None:
        raise UserError(
            "selection: best_val needs a val split. Fix: name one, or set selection: last"
        )
    held_out = None
    if run.selected_on is not None:
        source, policy = run.selected_on
        held_out = HeldOut(source, policy, split_rows(external.caches[source], source))
    return cache, split_rows(cache, run.train), held_out


def samples_under(
    run: Finetune,
    external: External,
    source: Source,
    policy: AudioPolicy,
    items: list[Item],
    training: bool = False,
) -> ClipSamples:
    """Return samples of a source under a policy for silent clips. training: they are trained on."""
    tables = {DONORS_BY[policy]: external.substitution} if policy in DONORS_BY else {}
    return samples_of(
        external.caches[source],
        items,
        source,
        run.inputs,
        run.modalities,
        policy=policy,
        donors=read_donors(tables, policy),
        seed=run.seed,
        training=training,
    )


def to_score(samples: ClipSamples, external: External) -> ClipsToScore:
    """Return samples as clips to score after each epoch."""
    return ClipsToScore(
        samples=samples, device=external.device, workers=external.workers, part=external.part
    )


def held_out_facts(
    run: Finetune, external: External, source: Source, samples: ClipSamples
) -> dict[str, Any]:
    """Return the counts of the scored clips, under the name of their split."""
    facts = clip_facts(external.caches[source], source, samples)
    return {"val": facts} if run.test is None else {"test": facts}


def clip_batches(
    run: Pretrain | Finetune,
    sources: Sequence[Samples],
    external: External,
    processor: Processor,
    targets_of: Callable[[dict], torch.Tensor] | None = None,
    weights: np.ndarray | None = None,
) -> ClipBatches:
    """Return the batches of a run, of which this rank has its part."""
    return ClipBatches(
        sources,
        seed=run.seed,
        batch_size=run.optimiser.batch_size,
        workers=external.workers,
        device=external.device,
        microbatch=run.optimiser.microbatch,
        rank=external.ranks.rank,
        world=external.ranks.world,
        processor=processor,
        targets_of=targets_of,
        weights=weights,
    )


def where(source: Source) -> str:
    """Return a split's name in messages."""
    return f"{source.dataset}, split {source.split}"


def clip_facts(cache: ClipCache, source: Source, samples: ClipSamples) -> dict[str, Any]:
    """Count the clips of a split, and its silent clips by the audio that they get."""
    counts = cache.manifest["splits"][source.split]
    used = {clip_id for clip_id, _, _ in samples.items}
    silent = used & cache.silent
    return {
        "dataset": source.dataset,
        "split": source.split,
        "planned": counts["planned"],
        "usable": counts["usable"],
        "clips": len(used),
        "samples": len(samples),
        "silent": counts["silent"],
        "silent_left_out": counts["silent"] - len(silent),
        "silent_with_donor": len(silent & samples.donor_of.keys()),
        "silent_without_sound": len(silent - samples.donor_of.keys()),
        "missing_audio": samples.missing,
    }

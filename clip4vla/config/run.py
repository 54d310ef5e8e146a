"""The resolved scientific config of one run, the only input of its job beside data and weights.

Four stages, each a section with a `stage` field: Pretrain, Substitute, Finetune, Evaluate.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from clip4vla.common.errors import UserError
from clip4vla.common.files import canonical_json, read_json, sha256_of
from clip4vla.config.base import Section
from clip4vla.config.data import AudioPolicy, Cache, Neighbours
from clip4vla.config.families import AnyModel, default_model
from clip4vla.config.objectives import AnyObjective, OfOneFamily, default_objective
from clip4vla.config.sections import (
    LABEL_TASKS,
    Augment,
    Decoding,
    Freeze,
    Inputs,
    Masking,
    Modality,
    Optimiser,
    Query,
    Sampling,
    Selection,
    TaskName,
    Trainable,
    added,
)
from clip4vla.config.variant import Variant

CODE_VERSION = 2  # raised when the code changes numbers: all run keys change


class Source(Section):
    """Clips of one split of one dataset version in one cache."""

    dataset: str = Field(description="dataset version, such as msrvtt-v1-0a1b2c")
    cache_id: str
    split: str
    nonverbal_share: float = Field(
        0.5, ge=0, le=1, description="type token: 0 is [VB], 1 is [NB] (facts 3.2)"
    )


class HeldOut(Section):
    """Splits of a dataset version whose videos pre-training leaves out."""

    dataset: str = Field(description="dataset version; its lists are read, not its media")
    splits: list[str] = Field(min_length=1)


class Pretrain(OfOneFamily):
    """Contrastive pre-training of the audio tower (paper, Pre-training; facts 6)."""

    stage: Literal["pretrain"] = "pretrain"
    code_version: int = CODE_VERSION
    seed: int = 0
    sources: list[Source] = Field(min_length=1, description="mixed in equal parts")
    cache: Cache = Cache()
    model: AnyModel = default_model()
    inputs: Inputs = Inputs()
    masking: Masking = Masking()
    objective: AnyObjective = Field(default_factory=default_objective)
    optimiser: Optimiser = Optimiser()
    trainable: Literal["audio", "all"] = Field("audio", description="stage 1: CLIP is frozen")
    freeze: Freeze = added(Freeze())
    held_out: list[HeldOut] = added([], "clips of their videos are left out")
    start: str | None = added(
        None, "second stage: run key of the first, or `weights:NAME`; null: CLIP itself"
    )


class Substitute(Section):
    """Donors for silent clips: their nearest neighbours with audio in train (facts 10.2)."""

    stage: Literal["substitute"] = "substitute"
    code_version: int = CODE_VERSION
    start: str | None = Field(description="run key, `weights:NAME`, or null for CLIP itself")
    queries: list[Source] = Field(min_length=1, description="their silent clips get donors")
    donors: Source
    neighbours: Neighbours = added(
        "vision", "frames; or, for released_links, each clip's own longest caption"
    )
    mean: Literal["masked", "plain"] = added("masked", "of frames; plain: padding counts too")
    cache: Cache = Cache()
    model: AnyModel = default_model()
    inputs: Inputs = Inputs()


class Finetune(OfOneFamily):
    """Fine-tuning for a task, or a probe on frozen features (facts 7-9)."""

    stage: Literal["finetune"] = "finetune"
    code_version: int = CODE_VERSION
    seed: int = 0
    start: str | None = Field(description="run key, `weights:NAME`, or null for CLIP itself")
    task: TaskName
    modalities: list[Modality] = Field(["vision", "audio"], min_length=1)
    train: Source
    val: Source | None = Field(description="clips to select on; null where the split has none")
    test: Source | None = added(None, "best_test_as_paper: the test clips, to select on")
    selection: Selection = "best_val"
    missing_audio: AudioPolicy = Field("filter", description="silent training clips")
    test_missing_audio: AudioPolicy | None = added(None, "silent clips of `test`")
    substitution: str | None = Field(None, description="run key of the substitution, if used")
    cache: Cache = Cache()
    model: AnyModel = default_model()
    inputs: Inputs = Inputs()
    objective: AnyObjective = Field(default_factory=default_objective)
    optimiser: Optimiser = Optimiser()
    pad_loss: bool = Field(False, description="captioning: pads count in the loss (released)")
    trainable: Trainable = added("head", "of labels: a probe alone, or the towers too")
    label_smoothing: float = added(0.0)
    sampling: Sampling = added("uniform")
    augment: Augment = added(Augment())
    freeze: Freeze = added(Freeze())
    decoding: Decoding = added(Decoding(), "captioning: of captions that select an epoch")

    @model_validator(mode="after")
    def _selects_on_one_split(self) -> Self:
        on_test = self.selection == "best_test_as_paper"
        if on_test != (self.test is not None) or (on_test and self.val is not None):
            raise ValueError(
                "selection: best_test_as_paper needs `test`, not `val`; others need `val`"
            )
        return self

    @property
    def trains_probe_only(self) -> bool:
        """Whether the towers are frozen, so that the features of a clip are computed once."""
        return self.task in LABEL_TASKS and self.trainable == "head"

    @property
    def learns_shares(self) -> bool:
        """Whether the target of a clip is a share of every class, and not one class."""
        return self.task == "tagging" or self.label_smoothing > 0 or self.augment.mixup > 0

    @property
    def selected_on(self) -> tuple[Source, AudioPolicy] | None:
        """Return the clips that are scored after each epoch, and their policy for silent clips."""
        if self.test is not None:
            return self.test, self.test_missing_audio or self.missing_audio
        return None if self.val is None else (self.val, self.missing_audio)


def first_scored_epoch(task: TaskName, selection: Selection) -> int:
    """Return the first epoch, counted from 1, that may be selected.

    The released code scores captions on the test split from the third epoch on (facts 8.2:
    epoch > 1, counted from 0).
    """
    return 3 if (task, selection) == ("captioning", "best_test_as_paper") else 1


class Evaluate(Section):
    """Evaluation of one checkpoint on one split, with variants that share its features."""

    stage: Literal["evaluate"] = "evaluate"
    code_version: int = CODE_VERSION
    start: str | None = Field(description="run key, `weights:NAME`, or null for CLIP itself")
    task: TaskName
    modalities: list[Modality] = Field(["vision", "audio"], min_length=1)
    query: Query = added("text", "retrieval: audio and vision compare clips, without captions")
    test: Source
    missing_audio: AudioPolicy = Field("substitute", description="silent test clips")
    substitution: str | None = None
    text_substitution: str | None = added(None, "run key of the one that released_links needs")
    cache: Cache = Cache()
    model: AnyModel = default_model()
    inputs: Inputs = Inputs()
    scale: float = Field(100.0, gt=0)
    decoding: Decoding = added(Decoding(), "captioning")
    test_frames: int | None = added(None, "of labels: evaluations of one frame each, averaged")
    rescore: int | None = added(None, "retrieval by text: candidates that pairs score again")
    class_names: bool = added(
        False, "of labels, zero-shot: clips are compared with the names of all classes as texts"
    )
    variants: list[Variant] = added([], "scored beside it, by name; without repetition")


Run = Pretrain | Substitute | Finetune | Evaluate
RUN: TypeAdapter[Run] = TypeAdapter(Annotated[Run, Field(discriminator="stage")])


def read_run(path: str | Path, key: str) -> Run:
    """Read the `config.json` of a run.

    Raises UserError with file, field and remedy for an invalid config, and for one whose hash is
    not `key`: it was edited, or belongs to another run.
    """
    try:
        value = read_json(path)
        run = RUN.validate_python(value)
        if sha256_of(canonical_json(value))[: len(key)] == key:
            return run
        reason = f"with the key {key} (it was edited, or belongs to another run)"
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"of this version ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    except ValueError as error:
        reason = f"({error})"
    raise UserError(
        f"{path}: not the config of a run {reason}. Fix: delete it and run the stage again"
    )


def sources_of(run: Run) -> list[Source]:
    """Return every source of clips that a run reads."""
    match run:
        case Pretrain():
            return list(run.sources)
        case Substitute():
            return [*run.queries, run.donors]
        case Finetune():
            return [source for source in (run.train, run.val, run.test) if source is not None]
        case Evaluate():
            return [run.test]

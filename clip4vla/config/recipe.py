"""Recipe of a table's row, before it is resolved into runs (`clip4vla.config.chain`)."""

from functools import partial
from typing import Literal, Self

from pydantic import Field, model_validator

from clip4vla.config.base import Section
from clip4vla.config.data import AudioPolicy, Cache
from clip4vla.config.families import AnyModel, default_model
from clip4vla.config.objectives import (
    FinetuneObjective,
    OfOneFamily,
    PretrainObjective,
    default_objective,
)
from clip4vla.config.run import first_scored_epoch
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
)


class PretrainSource(Section):
    """A split to pre-train on, and its kind of audio."""

    dataset: str = Field(description="name in `datasets` of the config")
    split: str = Field("train", description="its split; only clips with audio are used")
    nonverbal_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="0: speech, [VB]; 1: sounds, [NB]; needed for type tokens that mix them",
    )


class SecondStage(Section):
    """Second stage of pre-training, of all towers (facts 6.2, 6.3).

    It has the clips, inputs, masks and seed of the first stage.
    """

    objective: PretrainObjective = Field(
        default_factory=partial(default_objective, "pretrain"),
        description="independent of the first stage's",
    )
    optimiser: Optimiser = Optimiser(lr=1e-6, epochs=10, batch_size=256)
    freeze: Freeze = Freeze()


class PretrainRecipe(Section):
    """Stage 1 of pre-training, or weights that replace it, and an optional stage 2."""

    initialise_from: str | None = Field(
        None, alias="from", min_length=1, description="name in `weights` that replaces stage 1"
    )
    seed: int = Field(0, description="of weights, order and masks")
    sources: list[PretrainSource] = Field([], description="mixed in equal parts")
    type_token: Literal["none", "single", "both", "background"] | None = Field(
        None,
        description="audio type token of pre-training; null: model.type_token. The paper uses one "
        "token per source (single), and `both` afterwards",
    )
    leaks: Literal["drop", "keep"] = Field(
        "drop", description="drop: leave out clips of videos that are in `datasets.NAME.held_out`"
    )
    inputs: Inputs = Inputs()
    masking: Masking = Masking()
    objective: PretrainObjective = Field(default_factory=partial(default_objective, "pretrain"))
    optimiser: Optimiser = Optimiser()
    trainable: Literal["audio", "all"] = Field("audio", description="stage 1: CLIP is frozen")
    freeze: Freeze = Freeze()
    second_stage: SecondStage | None = Field(
        None, description="second stage, of all towers; {} for its defaults, null: none"
    )

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        if not self.sources and (self.initialise_from is None or self.second_stage is not None):
            or_weights = "" if self.second_stage else ", or `from` with the name of weights"
            raise ValueError(f"nothing to train on. Fix: set `sources`{or_weights}")
        self.objective.check_pretraining(self.trainable, "objective")
        if self.second_stage:
            self.second_stage.objective.check_pretraining("all", "second_stage.objective")
        if self.type_token is not None and not self.read_sources:
            raise ValueError(
                "type_token: `from` replaces pre-training, so nothing is trained. Fix: remove it"
            )
        if self.inputs.extra_word:
            raise ValueError("inputs.extra_word: pre-training writes no captions. Fix: remove it")
        if self.trainable == "audio" and self.freeze.layer_num is not None:
            raise ValueError(
                "freeze.layer_num concerns CLIP's towers, which are frozen. Fix: set trainable: all"
            )
        return self

    @property
    def stages(self) -> "list[PretrainRecipe | SecondStage]":
        """Return the first stage, and the second one if there is one."""
        return [self] if self.second_stage is None else [self, self.second_stage]

    @property
    def read_sources(self) -> list[PretrainSource]:
        """Return the sources of its stages; [] if weights replace all of them."""
        return self.sources if self.initialise_from is None or self.second_stage else []


class FinetuneRecipe(Section):
    """Training on the row's own dataset."""

    train: str = Field("train", min_length=1, description="split to train on")
    val: str | None = Field("val", min_length=1, description="split to select on; null: none")
    selection: Selection = Field(
        "best_val",
        description="epoch that is kept. best_test_as_paper: the best on the TEST split, as the "
        "authors chose theirs (facts 7.5): optimistic, and labelled wherever the number is shown",
    )
    objective: FinetuneObjective = Field(default_factory=partial(default_objective, "finetune"))
    optimiser: Optimiser = Optimiser()
    pad_loss: bool = Field(False, description="captioning: pads count in the loss (released)")
    trainable: Trainable = Field(
        "head",
        description="classification and tagging: a probe on frozen towers (head), or the towers at "
        "`lr` and the probe at `head_lr` (all)",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="classification and tagging: targets are 1 less this at labels, and this over "
        "the number of classes elsewhere",
    )
    sampling: Sampling = Field(
        "uniform",
        description="classification and tagging: each clip once an epoch, or as many draws with "
        "replacement, of clips of rare classes more often (balanced)",
    )
    augment: Augment = Augment()
    freeze: Freeze = Freeze()

    @model_validator(mode="after")
    def _selects_on_something(self) -> Self:
        if self.selection == "best_val" and self.val is None:
            raise ValueError(
                "selection: best_val needs a val split. Fix: name one, or set selection: last"
            )
        if self.selection == "best_test_as_paper" and self.val is not None:
            raise ValueError(
                f"selection: best_test_as_paper does not read val ({self.val!r}). Fix: set `val: "
                "null`, and train on all clips that the paper trained on"
            )
        if self.optimiser.average_epochs is not None and self.selection != "last":
            raise ValueError(
                f"optimiser.average_epochs: selection: {self.selection} keeps one epoch. Fix: set "
                "selection: last"
            )
        self.objective.check_finetuning()
        return self

    def check_task(self, task: TaskName) -> None:
        """Refuse settings that have no effect for the task."""
        self.objective.check_task(task)
        first = first_scored_epoch(task, self.selection)
        if self.optimiser.epochs < first:
            raise ValueError(
                f"finetune.selection: best_test_as_paper scores captions from epoch {first} on "
                f"(facts 8.2), but finetune.optimiser.epochs is {self.optimiser.epochs}. "
                "Fix: raise it"
            )
        if task not in LABEL_TASKS:
            self._refuse_keys_of_labels(task)
        elif self.trainable == "head":
            if self.freeze != Freeze():
                raise ValueError(
                    "finetune.freeze: the towers of a probe are always frozen. Fix: remove it, or "
                    "set finetune.trainable: all"
                )
            if self.augment != Augment():
                raise ValueError(
                    "finetune.augment: the features of a probe are computed once, of clips as they "
                    "are. Fix: remove it, or set finetune.trainable: all"
                )

    def _refuse_keys_of_labels(self, task: TaskName) -> None:
        for name, why in (
            ("trainable", "always trains the towers"),
            ("label_smoothing", "has no classes"),
            ("sampling", "has no classes"),
            ("augment", "has no classes"),
        ):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"finetune.{name}: task {task} {why}. Fix: remove it")


class Recipe(OfOneFamily):
    """All settings that decide a row's number on one dataset, except the seed."""

    task: TaskName = Field("retrieval", description="task of the row on its dataset")
    modalities: list[Modality] = Field(
        ["vision", "audio"], min_length=1, description="modalities that represent a clip"
    )
    query: Query = Field(
        "text",
        description="retrieval: captions find clips (text); or sounds find pictures (audio), or "
        "the other way round (vision): both directions are scored, captions are not read, and "
        "`finetune` trains on captions as ever",
    )
    nonverbal_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="mix of the type token at fine-tuning and test: 0 is [VB], 1 is [NB]; only for "
        "model.type_token: single",
    )
    missing_audio: AudioPolicy = Field(
        "substitute",
        description="policy for silent test clips; with vision only, just `filter` has an effect: "
        "it keeps clips with audio. released_links: audio of the nearest training caption, which "
        "reads the TEST captions (facts 10.2): labelled wherever the number is shown",
    )
    substitute_scope: Literal["test", "train+test"] = Field(
        "train+test",
        description="silent training and validation clips that need a donor: leave them out "
        "(test), or give them a donor like test clips (D11)",
    )
    donor_split: str = Field("train", min_length=1, description="split of the donor clips")
    donor_mean: Literal["masked", "plain"] = Field(
        "masked",
        description="mean over frames in the search for donors; plain: over max_frames, with empty "
        "frames if a clip has fewer (released)",
    )
    model: AnyModel = default_model()
    inputs: Inputs = Inputs()
    cache: Cache = Cache()
    pretrain: PretrainRecipe | None = None
    finetune: FinetuneRecipe | None = None
    test: str = Field("test", min_length=1, description="split to evaluate")
    decoding: Decoding = Decoding()
    test_frames: int | None = Field(
        None,
        ge=1,
        description="classification and tagging: so many evaluations of one frame each, spread "
        "over those of the clip, whose probabilities are averaged; null: one of all frames",
    )
    rescore: int | None = Field(
        None,
        ge=1,
        description="retrieval by text: so many first clips of each text, and texts of each clip, "
        "are scored again as pairs and come before the others (docs/evaluation.md); null: none",
    )

    def __hash__(self) -> int:
        """Hash by value, so that rows with equal recipes share their runs."""
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError("modalities: duplicates. Fix: name each once")
        if self.modalities == ["audio"] and self.missing_audio in ("none", "zeros"):
            raise ValueError(
                f"missing_audio: {self.missing_audio} leaves silent clips with nothing to score "
                "when audio is the only modality. Fix: use filter, substitute or random"
            )
        self._check_query()
        if self.missing_audio == "released_links" and self.task in LABEL_TASKS:
            raise ValueError(
                f"missing_audio: released_links compares captions, and the clips of a {self.task} "
                "have none. Fix: choose another policy"
            )
        if self.finetune is None and self.task == "captioning":
            raise ValueError(
                "task: captioning needs a `finetune` section, since its captioner is not trained "
                "otherwise. Fix: add one"
            )
        if self.finetune is None and self.task in LABEL_TASKS and not self.model.names_classes:
            raise ValueError(
                f"task: {self.task} without `finetune` compares clips with the names of classes, "
                "which this model cannot. Fix: add `finetune`"
            )
        if self.finetune is not None:
            self.finetune.check_task(self.task)
            if self.finetune.augment.mixup and not self.cache.waveform:
                raise ValueError(
                    "finetune.augment.mixup mixes waveforms, which the cache does not keep. Fix: "
                    "set cache.waveform: true, which makes another cache"
                )
            for name in ("frequency_mask", "time_mask", "noise", "roll"):
                if getattr(self.finetune.augment, name) and "audio" not in self.modalities:
                    raise ValueError(
                        f"finetune.augment.{name} changes sounds, and the row's modalities have no "
                        "audio. Fix: remove it"
                    )
        self._check_test_frames()
        self._check_rescore()
        self._check_draws()
        self.model.check(self)
        self.model.check_inputs(self.inputs, self.cache)
        if self.pretrain is not None:
            self.model.check_inputs(self.pretrain.inputs, self.cache)
        self._check_prefixes()
        if self.task != "captioning":
            for name, is_set in (
                ("decoding", self.decoding != Decoding()),
                ("inputs.extra_word", self.inputs.extra_word),
            ):
                if is_set:
                    raise ValueError(f"{name}: task {self.task} writes no captions. Fix: remove it")
        return self

    def _check_test_frames(self) -> None:
        """Check that probabilities of single frames can be averaged."""
        if self.test_frames is None:
            return
        if self.task not in LABEL_TASKS or self.finetune is None:
            raise ValueError(
                "test_frames: only a classification or tagging with `finetune` averages the "
                "probabilities of frames. Fix: remove it"
            )
        if "vision" not in self.modalities or self.test_frames > self.inputs.max_frames:
            raise ValueError(
                f"test_frames: {self.test_frames} frames of a clip are not read. Fix: raise "
                "inputs.max_frames and name vision among modalities, or remove it"
            )

    def _check_rescore(self) -> None:
        """Check that pairs of texts and clips can be scored again."""
        if self.rescore is None:
            return
        if self.task != "retrieval" or self.query != "text":
            raise ValueError(
                "rescore: only a retrieval by text scores pairs of a text and a clip again. Fix: "
                "remove it"
            )
        if not self.model.rescores:
            raise ValueError(
                "rescore: this model has no second score of a text and a clip. Fix: remove it"
            )

    def _check_draws(self) -> None:
        """Refuse draws of training that nothing would make."""
        tuned = self.finetune is not None and not (
            self.task in LABEL_TASKS and self.finetune.trainable == "head"
        )
        draws: dict[str, Modality] = {"train_frames": "vision", "train_crop": "audio"}
        for key, modality in draws.items():
            if getattr(self.inputs, key) and not tuned:
                raise ValueError(
                    f"inputs.{key}: no fine-tuning reads the clips in each epoch. Fix: remove it"
                )
            if (first := self.pretrain) is None or not getattr(first.inputs, key):
                continue
            if not any(modality in stage.objective.modalities for stage in first.stages):
                raise ValueError(
                    f"pretrain.inputs.{key}: pre-training reads no {modality}. Fix: remove it"
                )

    def _check_query(self) -> None:
        """Check that a query by audio or vision is one of clips that have both."""
        if self.query == "text":
            return
        if self.task != "retrieval":
            raise ValueError(
                f"query: {self.query} is for task: retrieval, not {self.task}. Fix: remove it"
            )
        if set(self.modalities) != {"vision", "audio"}:
            raise ValueError(
                f"query: {self.query} compares the sounds of clips with their pictures. Fix: set "
                "modalities: [vision, audio]"
            )
        if self.missing_audio != "filter":
            raise ValueError(
                f"query: {self.query}: a silent clip has no sound of its own, which would find its "
                f"picture, but missing_audio is {self.missing_audio}. Fix: set missing_audio: "
                "filter, which leaves silent clips out and counts them"
            )

    def _check_prefixes(self) -> None:
        """Check that frozen parameters are some of the model's."""
        pretrain, second = self.pretrain, self.pretrain and self.pretrain.second_stage
        stages = {"pretrain": pretrain, "pretrain.second_stage": second, "finetune": self.finetune}
        for place, stage in stages.items():
            parts = self.model.parts(self.task if place == "finetune" else None)
            names = [f"{part}." for part in parts]
            for prefix in stage.freeze.prefixes if stage else ():
                if not prefix or not any(
                    name.startswith(prefix) or prefix.startswith(name) for name in names
                ):
                    raise ValueError(
                        f"{place}.freeze.prefixes: no parameter name begins with {prefix!r}. "
                        f"Fix: begin with {', '.join(parts)}"
                    )

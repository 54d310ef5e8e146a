"""CoAVT's `model` section, its checks and its presets. Loads no torch."""

from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from pydantic import Field

from clip4vla.config.data import AudioPolicy, Cache
from clip4vla.config.families import FamilyModel, FamilySettings
from clip4vla.config.sections import (
    LABEL_TASKS,
    Activation,
    Decoding,
    Inputs,
    Masking,
    Optimiser,
    TaskName,
)
from clip4vla.models.coavt.objective import OBJECTIVES, Objective
from clip4vla.models.coavt.presets import PRESETS, TASKS, preset_values
from clip4vla.models.coavt.sizes import ArchitectureName, Sizes, sizes_of

if TYPE_CHECKING:
    from clip4vla.config.recipe import PretrainRecipe, Recipe
    from clip4vla.config.variant import Variant

ENCODER = ("audio", "vision", "shared")  # parts of the joint audio-visual encoder
VERBAL = ("query", "text", "query_proj", "text_proj", "matching", "language", "temperature")


class Model(FamilyModel):
    """Sizes, first weights and switches (facts 1). What the paper leaves open is a switch."""

    PARTS: ClassVar[tuple[str, ...]] = (*ENCODER, *VERBAL, "probe")
    TASKS: ClassVar[tuple[str, ...]] = ("pretrain", *get_args(TaskName))
    TITLE: ClassVar[str] = "CoAVT: a joint audio-visual encoder and a query encoder"
    ABOUT: ClassVar[str] = (
        "Weights of an implementation by this package of *CoAVT: A Cognition-Inspired Unified "
        "Audio-Visual-Text Pre-Training Model for Multimodal Processing* (2024). No code or "
        "weights of the authors are public: docs/coavt.md says what was inferred."
    )

    family: str = Field("coavt", description="the model family: a folder under clip4vla/models/")
    architecture: ArchitectureName = Field(
        "base", description="base: ViT-B/16 and BERT-base sizes; base_32: patches of 32; tiny"
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description="name in the config's `weights` for the audio-visual encoder: CAV-MAE, a "
        "vision MAE or a plain ViT of open_clip; null: random",
    )
    text_weights: str | None = Field(
        None,
        min_length=1,
        description="name in the config's `weights` for the text and query encoder: a folder of "
        "BERT; null: random",
    )
    shared_layers: int = Field(
        1, ge=1, description="last blocks, which sound, picture and both run through"
    )
    queries: int = Field(32, ge=1, description="learnable queries (BLIP-2: 32)")
    cross_every: int = Field(
        2, ge=1, description="queries attend to the clip in each n-th layer, counted from the first"
    )
    share_text: bool = Field(
        True, description="texts run through the query encoder (BLIP-2); false: an encoder apart"
    )
    tokenizer: Literal["clip", "bert"] = Field(
        "clip", description="CLIP's tokens, or BERT's word pieces, which `text_weights` brings"
    )
    activation: Activation = Field(
        "gelu", description="of the audio-visual encoder: that of its `weights`"
    )
    input_norm: bool = Field(
        False, description="LayerNorm before the first block of a modality, as CLIP has it"
    )
    image_stats: Literal["imagenet", "clip"] = Field(
        "imagenet", description="mean and deviation of pixels: those of `weights`"
    )
    positions: Literal["fixed", "tuned"] = Field(
        "fixed", description="positions of patches; tuned: fine-tuning trains them (CAV-MAE)"
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, description="of the text and query encoder in training (BERT: 0.1)"
    )
    missing: Literal["average", "stream"] = Field(
        "average",
        description="clips without sound or picture: the mean of the shared blocks with the norms "
        "of both and of the modality itself (CAV-MAE), or the latter alone",
    )

    def parts(self, task: TaskName | None) -> tuple[str, ...]:
        """See `FamilyModel.parts`: `text` is an encoder apart, `probe` one of labels."""
        lacks = {"text": self.share_text, "probe": task not in LABEL_TASKS}
        return tuple(part for part in self.PARTS if not lacks.get(part))

    def sizes(self, vocabulary: int, inputs: Inputs) -> Sizes:
        """Return the sizes of the model. UserError for too many shared layers."""
        return sizes_of(
            self.architecture,
            vocabulary,
            self.shared_layers,
            queries=self.queries,
            cross_every=self.cross_every,
            steps=inputs.segment_steps,
        )

    def towers(self) -> "Model":
        """Return the model of pre-training: its positions are fixed."""
        return self.model_copy(update={"positions": "fixed"})

    @property
    def first_weights(self) -> list[str]:
        """See `FamilyModel.first_weights`: of the audio-visual encoder, and of texts."""
        return [name for name in (self.weights, self.text_weights) if name is not None]

    def without_first_weights(self) -> "Model":
        """See `FamilyModel.without_first_weights`."""
        return self.model_copy(update={"weights": None, "text_weights": None})

    @property
    def rescores(self) -> bool:
        """See `FamilyModel.rescores`: the matching head scores pairs."""
        return True

    @property
    def embeds_texts(self) -> bool:
        """See `FamilyModel.embeds_texts`: texts are compared with every query of a clip."""
        return False

    def preprocessing(self) -> dict[str, str]:
        """See `FamilyModel.preprocessing`."""
        pixels = {"imagenet": "ImageNet's", "clip": "CLIP's"}[self.image_stats]
        tokens = {"clip": "CLIP's tokens", "bert": "BERT's word pieces"}[self.tokenizer]
        return {"pixels": f"{pixels} mean and standard deviation", "tokens": tokens}

    def described(self) -> dict[str, str | None]:
        """See `FamilyModel.described`."""
        return {"architecture": self.architecture, "activation": self.activation}

    def check_architecture(self) -> None:
        """See `FamilyModel.check_architecture`."""
        sizes_of(self.architecture, 1, self.shared_layers)

    def check(self, recipe: "Recipe") -> None:
        """See `FamilyModel.check`."""
        super().check(recipe)
        replaced = recipe.pretrain is not None and recipe.pretrain.initialise_from is not None
        if self.tokenizer == "bert" and self.text_weights is None and not replaced:
            raise ValueError(
                "model.tokenizer: bert has the vocabulary of BERT's folder. Fix: set "
                "model.text_weights"
            )
        if self.tokenizer == "clip" and self.text_weights is not None:
            raise ValueError(
                "model.text_weights: BERT reads its own word pieces. Fix: set model.tokenizer: bert"
            )
        check_row(recipe)
        if recipe.pretrain is not None and recipe.pretrain.read_sources:
            check_pretraining(recipe.pretrain)
            if recipe.pretrain.inputs.segment_steps != recipe.inputs.segment_steps:
                raise ValueError(
                    "pretrain.inputs.segment_steps differs from inputs.segment_steps, on which "
                    "the positions of patches depend. Fix: make them equal"
                )
        if recipe.finetune is not None and recipe.task == "retrieval":
            objective = recipe.finetune.objective
            assert isinstance(objective, Objective)
            objective.check_modalities(recipe.modalities, "finetune.objective")
        if recipe.rescore is not None and not trains_matching(recipe):
            raise ValueError(
                "rescore: the matching head scores pairs, and no training of this row has matching "
                "above 0. Fix: remove rescore"
            )
        if self.positions == "tuned" and not trains_encoder(recipe):
            raise ValueError(
                "model.positions: tuned ones learn in a fine-tuning of the audio-visual encoder, "
                "and this row has none. Fix: set it to fixed"
            )

    def check_inputs(self, inputs: Inputs, cache: Cache) -> None:
        """See `FamilyModel.check_inputs`."""
        sizes = self.sizes(vocabulary=1, inputs=inputs)
        if cache.log_mel.n_mels != sizes.bands:
            raise ValueError(
                f"cache.log_mel.n_mels is {cache.log_mel.n_mels}, but {self.architecture} reads "
                f"{sizes.bands} bands. Fix: set it to {sizes.bands}"
            )
        if cache.log_mel.channels != "mean":
            raise ValueError(
                "cache.log_mel.channels: sounds of one channel are read. Fix: set it to mean"
            )
        if inputs.max_segments != 1:
            raise ValueError(
                f"inputs.max_segments: {inputs.max_segments}, but one segment is read of each "
                "clip. Fix: set it to 1, and its length with inputs.segment_steps"
            )
        if inputs.extra_segment:
            raise ValueError(
                "inputs.extra_segment: one segment is read of each clip. Fix: remove it"
            )
        if inputs.segment_steps % sizes.patch:
            raise ValueError(
                f"inputs.segment_steps: {inputs.segment_steps} is no multiple of the patch of "
                f"{sizes.patch}. Fix: correct it"
            )

    def check_variant(self, variant: "Variant") -> None:
        """See `FamilyModel.check_variant`."""
        super().check_variant(variant)
        check_policy(f"variant {variant.name}", variant.missing_audio)


def check_policy(where: str, policy: AudioPolicy | None) -> None:
    """Raise ValueError for the policy `zeros`: masked sound is absent, as under `none`."""
    if policy == "zeros":
        raise ValueError(
            f"{where}: sound that is all zeros is not read, as under none. Fix: set "
            "missing_audio: none"
        )


def trains_encoder(recipe: "Recipe") -> bool:
    """Return whether the fine-tuning of a row trains more than a probe."""
    tuning = recipe.finetune
    return tuning is not None and not (recipe.task in LABEL_TASKS and tuning.trainable == "head")


def trains_matching(recipe: "Recipe") -> bool:
    """Return whether a row trains the matching head, or may start from one that is trained."""
    first, tuning = recipe.pretrain, recipe.finetune
    if first is not None and first.initialise_from is not None:
        return True
    stages = [*(first.stages if first else []), *([tuning] if tuning else [])]
    weights = [getattr(stage.objective, "matching", 0) for stage in stages]
    return not weights or any(weights)


def check_row(recipe: "Recipe") -> None:
    """Raise ValueError for keys of a recipe that this family does not read."""
    check_policy("missing_audio: zeros", recipe.missing_audio)
    plain = Decoding()
    unread = {
        "nonverbal_share": recipe.nonverbal_share != 0.5,
        "donor_mean": recipe.donor_mean != "masked",
        "inputs.extra_word": recipe.inputs.extra_word,
        "decoding.positions": recipe.decoding.positions != plain.positions,
    }
    if recipe.finetune is not None:
        unread["finetune.pad_loss"] = recipe.finetune.pad_loss
        unread["finetune.freeze.layer_num"] = recipe.finetune.freeze.layer_num is not None
        check_optimiser("finetune", recipe.finetune.optimiser)
    refuse(unread)


def check_pretraining(pretrain: "PretrainRecipe") -> None:
    """Raise ValueError for a pre-training that this family cannot follow."""
    if pretrain.trainable != "all":
        raise ValueError(
            f"pretrain.trainable: {pretrain.trainable}, but all of CoAVT is pre-trained. Fix: set "
            "it to all"
        )
    unread = {
        "pretrain.masking": pretrain.masking != Masking(),
        "pretrain.freeze.layer_num": pretrain.freeze.layer_num is not None,
    }
    check_optimiser("pretrain", pretrain.optimiser)
    if second := pretrain.second_stage:
        unread["pretrain.second_stage.freeze.layer_num"] = second.freeze.layer_num is not None
        check_optimiser("pretrain.second_stage", second.optimiser)
    refuse(unread)


def check_optimiser(stage: str, optimiser: Optimiser) -> None:
    """Raise ValueError for the optimiser of other code, which decays its own parts by name."""
    if optimiser.kind != "adamw":
        raise ValueError(
            f"{stage}.optimiser.kind: {optimiser.kind} decays weights by names that CoAVT does not "
            "have. Fix: set it to adamw"
        )


def refuse(unread: dict[str, bool]) -> None:
    """Raise ValueError for the first key that is set though nothing reads it."""
    for key, is_set in unread.items():
        if is_set:
            raise ValueError(f"{key}: a model of family coavt does not read it. Fix: remove it")


SETTINGS = FamilySettings(
    model=Model,
    objectives=OBJECTIVES,
    presets=PRESETS,
    scripts={title: values for title, values in TASKS.items()},
    preset_values=preset_values,
)

"""CLIP4VLA's `model` section, its checks and its presets. Loads no torch."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import Field

from clip4vla.common.errors import UserError
from clip4vla.config.base import added
from clip4vla.config.data import IMAGE_SIZE, Cache
from clip4vla.config.families import FamilyModel, FamilySettings
from clip4vla.config.sections import Activation, Inputs, TaskName
from clip4vla.models.clip4vla.objective import OBJECTIVES
from clip4vla.models.clip4vla.presets import PRESETS, preset_values, scripts
from clip4vla.models.clip4vla.type_tokens import TypeToken, can_follow

if TYPE_CHECKING:
    from clip4vla.config.recipe import PretrainRecipe, Recipe
    from clip4vla.config.variant import Variant

GateKind = Literal["feat2feat", "feat2sim", "query2feat", "query2sim"]
MixingFusion = Literal["global_to_local", "temporal"]
PairFusion = Literal["tight", "local_to_local"]
JointFusion = Literal[MixingFusion, PairFusion]
Fusion = Literal["global_to_global", JointFusion, GateKind]
JointStyle = Literal["clip", "bert"]
GATES: tuple[GateKind, ...] = get_args(GateKind)
JOINT_FUSIONS = get_args(JointFusion)
# A clip passes the joint encoder before it is pooled.
MIXING_FUSIONS: tuple[MixingFusion, ...] = get_args(MixingFusion)
# The joint encoder encodes text and clip together.
PAIR_FUSIONS: tuple[PairFusion, ...] = get_args(PairFusion)
Head = Literal["captioning", "classification", "fusion", "gate"] | None
HEAD_PARTS: dict[Head, str] = {  # names of the parts that tasks add to the towers
    "captioning": "captioner",
    "fusion": "fusion",
    "gate": "gate",
    "classification": "probe",
}
JOINT_POSITIONS: dict[JointStyle, int] = {"clip": 77, "bert": 512}  # clip: CLIP's text positions


class Model(FamilyModel):
    """Towers, type token and fusion (paper, Method; facts 3, 4, 7)."""

    PARTS: ClassVar[tuple[str, ...]] = (
        "text",
        "vision",
        "audio",
        "logit_scale",
        *HEAD_PARTS.values(),
    )

    TASKS: ClassVar[tuple[str, ...]] = ("pretrain", *get_args(TaskName))
    TITLE: ClassVar[str] = "CLIP4VLA: CLIP with an audio tower"
    ABOUT: ClassVar[str] = (
        "Weights of *Accommodating Audio Modality in CLIP for Multimodal Processing* (AAAI 2023) "
        "in the reproduction by this package: text, frames and sound in one space."
    )
    TAGS: ClassVar[tuple[str, ...]] = ("clip",)

    architecture: str = Field("ViT-B-32", description="an open_clip name, or a file of ours: tiny")
    weights: str | None = Field(
        "openai",
        min_length=1,
        description="name in the config's `weights`; null: random (demo and tests)",
    )
    audio_init: Literal["vision", "scratch"] = Field(
        "vision", description="initial weights of the audio tower: the vision tower's, or random"
    )
    type_token: TypeToken = Field(
        "single",
        description="none; one token mixed by nonverbal_share; [VB] and [NB] both (D8); or one "
        "token for all clips, as early released files have (background, facts 3.2)",
    )
    extra_position: Literal["scaled", "released"] = Field(
        "scaled", description="initial size of the type token's position: width^-0.5, or N(0,1)"
    )
    joint_layers: int = Field(4, ge=1, description="layers of the joint encoder")
    joint: JointStyle = added(
        "clip", "joint encoder: initialised from the text tower; or in BERT's style, randomly"
    )
    fusion: Fusion = added(
        "global_to_global",
        "retrieval: mean of pooled vectors; joint encoder over the clip (global_to_local), with "
        "the end token (tight), with every token (local_to_local); a gate (feat2..., query2...); "
        "or, for vision only, CLIP4Clip's transformer over frames (temporal)",
    )
    activation: Activation = added(
        "quick_gelu", "activation of the CLIP weights: OpenAI, DFN, MetaCLIP quick_gelu; LAION gelu"
    )

    def towers(self) -> "Model":
        """Return the model without the parts for retrieval, which earlier stages do not read."""
        return self.model_copy(update={"joint": "clip", "fusion": "global_to_global"})

    def in_pretraining(self, pretrain: "PretrainRecipe") -> "Model":
        """Return the towers, with the type token of pre-training."""
        token = pretrain.type_token
        return self.towers().model_copy(update={"type_token": token} if token else {})

    def head(self, task: TaskName | None) -> Head:
        """Return the head that a task adds; for retrieval it depends on the fusion (facts 7.1)."""
        if task == "tagging":
            return "classification"  # one probe for the labels of clips
        if task != "retrieval":
            return task
        if self.fusion in JOINT_FUSIONS:
            return "fusion"
        return "gate" if self.fusion in GATES else None

    @property
    def scores_each_modality(self) -> bool:
        """See `FamilyModel.scores_each_modality`."""
        return self.fusion not in PAIR_FUSIONS

    def not_in_vectors(self, task: TaskName | None) -> str | None:
        """See `FamilyModel.not_in_vectors`."""
        return f"fusion {self.fusion}" if self.head(task) in ("fusion", "gate") else None

    @property
    def mixes_type_tokens(self) -> bool:
        """See `FamilyModel.mixes_type_tokens`."""
        return self.type_token == "single"

    def described(self) -> dict[str, str | None]:
        """See `FamilyModel.described`."""
        return {"architecture": self.architecture, "activation": self.activation}

    def card(self, metadata: dict[str, Any]) -> dict[str, str | None]:
        """See `FamilyModel.card`."""
        share, token = metadata["nonverbal_share"], str(self.type_token)
        if token == "single":
            token += ", " + ("[VB] or [NB] by source" if share is None else f"{share:g} of [NB]")
        elif before := metadata.get("start_type_token"):
            token += f" ({before} in pre-training)"
        fusion = f", {self.fusion}" if metadata["task"] == "retrieval" else ""
        task = (metadata["task"] or "none: towers alone") + fusion
        if metadata.get("trainable") == "all":
            task += ", towers fine-tuned"
        return {"type token": token, "task": task}

    def labels(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return the type token that the first weights were trained with, if it was another."""
        model = before.get("model")
        earlier = model.get("type_token") if isinstance(model, dict) else None
        token = before.get("start_type_token", earlier)
        return {} if token in (None, self.type_token) else {"start_type_token": token}

    def check_architecture(self) -> None:
        """See `FamilyModel.check_architecture`. Names such as hf-hub:… are looked up later."""
        from clip4vla.models.clip4vla.architecture import resolve

        if ":" not in self.architecture:
            resolve(self.architecture, self.activation)

    def check_variant(self, variant: "Variant") -> None:
        """See `FamilyModel.check_variant`."""
        if variant.nonverbal_share is not None and not self.mixes_type_tokens:
            raise ValueError(
                f"variant {variant.name}: nonverbal_share only has an effect with "
                "model.type_token: single. Fix: remove it"
            )
        if not variant.frames and self.fusion in GATES:
            raise ValueError(f"variant {variant.name}: a gate needs frames. Fix: remove `frames`")

    def check(self, recipe: "Recipe") -> None:
        """See `FamilyModel.check`."""
        self.check_query(recipe)
        self._check_fusion(recipe)
        self._check_type_tokens(recipe)
        if recipe.task == "captioning" or self.fusion in JOINT_FUSIONS:
            check_positions(recipe.inputs, JOINT_POSITIONS[self.joint])

    def check_inputs(self, inputs: Inputs, cache: Cache) -> None:
        """See `FamilyModel.check_inputs`."""
        sizes = {"cache.log_mel.n_mels": cache.log_mel.n_mels}
        sizes["inputs.segment_steps"] = inputs.segment_steps
        for key, size in sizes.items():
            if size != IMAGE_SIZE:
                raise ValueError(
                    f"{key} must be {IMAGE_SIZE}: a segment is a {IMAGE_SIZE} x {IMAGE_SIZE} "
                    "image. Fix: remove it"
                )

    def check_query(self, recipe: "Recipe") -> None:
        """See `FamilyModel.check_query`."""
        if recipe.query != "text" and self.fusion in PAIR_FUSIONS:
            raise ValueError(
                f"query: {recipe.query} compares vectors of sounds and of pictures, but "
                f"model.fusion: {self.fusion} scores pairs of a text and a clip. Fix: choose "
                "another fusion, or set query: text"
            )

    def _check_fusion(self, recipe: "Recipe") -> None:
        """Check that a fusion has its task, its training and its modalities."""
        fusion = self.fusion
        if fusion == "global_to_global":
            return
        if recipe.task != "retrieval":
            raise ValueError(f"model.fusion: {fusion} is for task: retrieval. Fix: remove it")
        if recipe.finetune is None:
            raise ValueError(f"model.fusion: {fusion} has weights to train. Fix: add `finetune`")
        if fusion in GATES and len(recipe.modalities) < 2:
            raise ValueError(f"model.fusion: {fusion} weighs vision against audio. Fix: name both")
        if fusion == "temporal" and recipe.modalities != ["vision"]:
            raise ValueError(
                "model.fusion: temporal reads only frames. Fix: set modalities: [vision]"
            )
        if fusion == "temporal" and self.joint != "clip":
            raise ValueError("model.fusion: temporal has CLIP's blocks. Fix: remove model.joint")

    def _check_type_tokens(self, recipe: "Recipe") -> None:
        """Check that pre-training distinguishes [VB] and [NB] and that fine-tuning can follow."""
        if recipe.pretrain is None or not recipe.pretrain.read_sources:
            return
        after = self.type_token
        before = recipe.pretrain.type_token or after
        if not can_follow(before, after):
            raise ValueError(
                f"pretrain.type_token: {before} trains other tensors than model.type_token: "
                f"{after} reads. Fix: make them equal, or single and then both"
            )
        shares = {source.nonverbal_share for source in recipe.pretrain.sources}
        if before == "single" and None in shares:
            raise ValueError(
                "pretrain.sources: nonverbal_share mixes the type token and is missing. Fix: set "
                "it for each source, 0 for speech and 1 for other sounds"
            )
        if before == "both" and len(shares) > 1:
            raise ValueError(
                "pretrain.type_token: both gives every clip [VB] and [NB] alike, so the sources' "
                "nonverbal_share would not be read. Fix: set pretrain.type_token: single, or "
                "give all sources the same nonverbal_share"
            )


def check_positions(inputs: Inputs, positions: int) -> None:
    """Raise UserError unless words, frames and segments fit the joint encoder's positions."""
    length = inputs.max_words + inputs.max_frames + inputs.max_segments
    if length > positions:
        raise UserError(
            f"inputs: max_words + max_frames + max_segments is {length}, but the joint encoder "
            f"has {positions} positions. Fix: lower one of them"
        )


SETTINGS = FamilySettings(
    model=Model,
    objectives=OBJECTIVES,
    presets=PRESETS,
    scripts=scripts(),
    preset_values=preset_values,
)

"""CoAVT's `objective` section: the weights of three losses and of three alignments (facts 2)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from clip4vla.config.families import FamilyObjective, TrainedStage
from clip4vla.config.sections import Modality, TaskName

Alignment = Literal["av", "a", "v"]  # of a text with both modalities, or with one of them
READS: dict[Alignment, tuple[Modality, ...]] = {
    "av": ("vision", "audio"),
    "a": ("audio",),
    "v": ("vision",),
}
WEIGHTS: dict[Alignment, str] = {"av": "audio_visual_text", "a": "audio_text", "v": "visual_text"}


class Objective(FamilyObjective):
    """Contrast, matching and language modelling, of texts with sound, picture and both (facts 2).

    The paper states the three losses and the three alignments; all weights are unknown.
    """

    contrast: float = Field(1.0, ge=0, description="weight of the contrast of texts and clips")
    matching: float = Field(
        1.0, ge=0, description="weight of telling pairs from hard negatives of the batch"
    )
    language: float = Field(
        1.0,
        ge=0,
        description="weight of the prediction of the caption's words, from the widest alignment "
        "that the row has",
    )
    audio_visual_text: float = Field(
        1.0, ge=0, description="weight of the alignment of texts with sound and picture together"
    )
    audio_text: float = Field(1.0, ge=0, description="weight of that with sound")
    visual_text: float = Field(1.0, ge=0, description="weight of that with picture")
    bimodal_language: float = Field(
        0.0, ge=0, description="share of `language` for the other alignments (VALOR: 1)"
    )
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing of the contrast")
    language_smoothing: float = Field(
        0.1, ge=0, lt=1, description="label smoothing of the words, over the vocabulary"
    )
    grouped: bool = Field(
        True, description="contrasts: samples of the same clip share the target; else the pair only"
    )
    gathered_gradient: bool = Field(
        True,
        description="contrast: both sides get gradients; false: texts that clips are compared "
        "with, and the other way round, get none, as in LAVIS",
    )
    audio_visual_contrast: float = Field(
        0.0,
        ge=0,
        description="weight of a contrast of mean sound and picture tokens, at CAV-MAE's "
        "temperature 0.05",
    )

    def weight(self, alignment: Alignment) -> float:
        """Return the weight of an alignment."""
        weight: float = getattr(self, WEIGHTS[alignment])
        return weight

    def alignments(self, modalities: list[Modality]) -> list[Alignment]:
        """Return the alignments that learn from clips of these modalities, the widest first."""
        return [
            name
            for name, reads in READS.items()
            if self.weight(name) and set(reads) <= set(modalities)
        ]

    def language_weight(self, alignment: Alignment, modalities: list[Modality]) -> float:
        """Return the weight of the words in an alignment, for clips of these modalities."""
        widest = max(len(READS[name]) for name in self.alignments(modalities))
        is_widest = len(READS[alignment]) == widest
        return self.language * (1.0 if is_widest else self.bimodal_language)

    @property
    def modalities(self) -> list[Modality]:
        """See `FamilyObjective.modalities`."""
        both: list[Modality] = ["vision", "audio"]
        read = {modality for name in self.alignments(both) for modality in READS[name]}
        return [name for name in both if name in read or self.audio_visual_contrast]

    @property
    def _compares(self) -> bool:
        """Whether texts are compared with clips at all."""
        return bool(self.contrast or self.matching or self.language)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        unread = {
            "smoothing": self.contrast,
            "grouped": self.contrast or self.audio_visual_contrast,
            "gathered_gradient": self.contrast,
            "language_smoothing": self.language,
            "bimodal_language": self.language,
        }
        for name, weight in unread.items():
            if not weight and getattr(self, name) != type(self).model_fields[name].default:
                loss = "language" if "language" in name else "contrast"
                raise ValueError(f"{name} only has an effect with {loss} above 0. Fix: remove it")
        return self

    def check_pretraining(self, trainable: Literal["audio", "all"], key: str) -> None:
        """See `FamilyObjective.check_pretraining`."""
        self.check_modalities(["vision", "audio"], key)

    def check_modalities(self, modalities: list[Modality], key: str) -> None:
        """Raise ValueError unless something is learned from clips of these modalities."""
        if self.audio_visual_contrast and len(modalities) < 2:
            raise ValueError(
                f"{key}.audio_visual_contrast compares sounds with pictures, but only "
                f"{modalities[0]} is read. Fix: remove it"
            )
        if not (self._compares and self.alignments(modalities)) and not self.audio_visual_contrast:
            raise ValueError(
                f"{key}: all losses or all alignments have weight 0 for {' and '.join(modalities)}."
                " Fix: give one of each a weight"
            )
        unread = {WEIGHTS[name]: not set(reads) <= set(modalities) for name, reads in READS.items()}
        learning = self.alignments(modalities)
        unread["bimodal_language"] = len({len(READS[name]) for name in learning}) < 2
        for name, is_unread in unread.items():
            if is_unread and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{key}.{name} has no effect on what is learned from "
                    f"{' and '.join(modalities)}. Fix: remove it"
                )

    def check_task(self, task: TaskName) -> None:
        """See `FamilyObjective.check_task`. Captioning trains words alone, labels have none."""
        read = {"retrieval": set(type(self).model_fields), "captioning": {"language_smoothing"}}
        for name, field in type(self).model_fields.items():
            if name not in read.get(task, set()) and getattr(self, name) != field.default:
                raise ValueError(
                    f"finetune.objective.{name}: task {task} does not read it. Fix: remove it"
                )


OBJECTIVES: dict[TrainedStage, Objective] = {"pretrain": Objective(), "finetune": Objective()}

"""CLIP4VLA's `objective` section: the terms of its contrast, and where each may be set."""

from typing import Literal, Self

from pydantic import Field, model_validator

from clip4vla.config.base import added
from clip4vla.config.families import FamilyObjective, TrainedStage
from clip4vla.config.sections import Modality, TaskName

FIXED_SCALE = 100.0


class Objective(FamilyObjective):
    """Contrastive terms (facts 5; paper eqs 1-5)."""

    inter: bool = Field(
        True, description="text-audio and vision-audio; text-vision too where CLIP is trained"
    )
    intra: bool = Field(True, description="clean against masked audio")
    scale: float = Field(FIXED_SCALE, gt=0, description="1 / temperature, while that is fixed")
    symmetric: bool = Field(True, description="both directions; false: text -> video only (D10)")
    temperature: Literal["fixed", "learnable"] = added(
        "fixed", "learnable: CLIP's logit_scale from its weights, at most 100, with head_lr"
    )
    multi_positive: bool = added(
        False, "all samples of one clip are each other's positives (inter); else only the pair"
    )
    second_stage: Literal["repaired", "released"] = added(
        "repaired",
        "where CLIP is trained too: t_a + a_v + t_v; or t_a + 2 a_v, with t_v in the curve only",
    )
    self_similarity: bool = added(
        False, "text-text and vision-vision too: each sample against all others (released)"
    )

    @property
    def validation_scale(self) -> float:
        """See `FamilyObjective.validation_scale`."""
        return self.scale

    @property
    def modalities(self) -> list[Modality]:
        """See `FamilyObjective.modalities`."""
        return ["vision", "audio"] if self.inter else ["audio"]

    @property
    def masks_audio(self) -> bool:
        """See `FamilyObjective.masks_audio`."""
        return self.intra

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.temperature == "learnable" and self.scale != FIXED_SCALE:
            raise ValueError("scale only has an effect with temperature: fixed. Fix: remove it")
        if not self.inter:
            for name in ("multi_positive", "second_stage", "self_similarity"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} only has an effect with inter-modal terms. Fix: set inter: true"
                    )
        return self

    def check_pretraining(self, trainable: Literal["audio", "all"], key: str) -> None:
        """See `FamilyObjective.check_pretraining`."""
        if not (self.inter or self.intra):
            raise ValueError(f"{key}.inter and {key}.intra are both off. Fix: turn one on")
        if trainable == "all":
            return
        settings = {
            "second_stage: released": self.second_stage == "released",
            "self_similarity": self.self_similarity,
        }
        for name, is_set in settings.items():
            if is_set:
                raise ValueError(
                    f"{key}.{name} concerns CLIP's towers, which are frozen. Fix: set trainable: "
                    "all"
                )

    def check_finetuning(self) -> None:
        """See `FamilyObjective.check_finetuning`."""
        for name in ("inter", "intra", "second_stage", "self_similarity"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"objective.{name} is for pre-training. Fix: remove it")

    def check_task(self, task: TaskName) -> None:
        """See `FamilyObjective.check_task`."""
        for name, default in OBJECTIVES["finetune"]:
            if task != "retrieval" and getattr(self, name) != default:
                raise ValueError(
                    f"finetune.objective.{name}: task {task} has no contrastive loss. "
                    "Fix: remove it"
                )


OBJECTIVES: dict[TrainedStage, Objective] = {
    "pretrain": Objective(),
    "finetune": Objective(symmetric=False),
}

"""Objectives in the config: their class and defaults are those of the row's or run's family."""

from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ModelWrapValidatorHandler, SerializeAsAny, model_validator

from clip4vla.config.base import Section
from clip4vla.config.families import (
    DEFAULT,
    FAMILIES,
    FamilyModel,
    FamilyObjective,
    TrainedStage,
    family_settings,
)
from clip4vla.config.yaml import merge

_FAMILY = ContextVar("family", default=DEFAULT)  # of the section that is being validated


def family_named(values: Any) -> str:
    """Return the family that the `model` of a section's values names.

    The default family stands for an invalid one, which the validation of `model` reports.
    """
    model = values.get("model") if isinstance(values, dict) else None
    if isinstance(model, FamilyModel):
        return model.family
    family = model.get("family") if isinstance(model, dict) else None
    return family if isinstance(family, str) and family in FAMILIES else DEFAULT


class OfOneFamily(Section):
    """Base of the sections with a `model`: objectives in them, at any depth, are of its family."""

    @model_validator(mode="wrap")
    @classmethod
    def _knows_its_family(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate the section's parts with the family that its model names."""
        before = _FAMILY.set(family_named(values))
        try:
            return handler(values)
        finally:
            _FAMILY.reset(before)


def default_objective(stage: TrainedStage | None = None) -> FamilyObjective:
    """Return the family's default for a stage; None: of its class, as resolved runs have."""
    settings = family_settings(_FAMILY.get())
    return settings.objective() if stage is None else settings.objectives[stage]


def _of_its_family(stage: TrainedStage | None, value: Any) -> Any:
    """Validate an objective with the family's class, over its default for the stage."""
    if not isinstance(value, dict):
        return value  # an instance already, or a mistake that pydantic reports
    default = default_objective(stage)
    held = default.model_dump(exclude_defaults=True, by_alias=True)
    return type(default).model_validate(merge(held, value))


AnyObjective = Annotated[
    SerializeAsAny[FamilyObjective], BeforeValidator(partial(_of_its_family, None))
]
PretrainObjective = Annotated[
    SerializeAsAny[FamilyObjective], BeforeValidator(partial(_of_its_family, "pretrain"))
]
FinetuneObjective = Annotated[
    SerializeAsAny[FamilyObjective], BeforeValidator(partial(_of_its_family, "finetune"))
]

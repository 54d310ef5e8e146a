"""The toy's `model` section."""

from typing import ClassVar

from pydantic import Field

from clip4vla.config.families import FamilyModel, FamilyObjective, FamilySettings


class Model(FamilyModel):
    """A width, and nothing to load."""

    TASKS: ClassVar[tuple[str, ...]] = ("retrieval", "classification")
    TITLE: ClassVar[str] = "A toy"
    ABOUT: ClassVar[str] = "Weights of the family of the tests."

    architecture: str = "toy"
    weights: None = None
    dim: int = 16

    PARTS: ClassVar[tuple[str, ...]] = ("text", "vision", "audio", "probe")


class Objective(FamilyObjective):
    """A contrast of captions with clips."""

    scale: float = Field(10.0, description="1 / temperature")
    symmetric: bool = Field(False, description="clips with captions, too")


SETTINGS = FamilySettings(
    model=Model,
    objectives={"pretrain": Objective(), "finetune": Objective(scale=20.0)},
    presets={"paper": {"model.dim": 8}},
    scripts={},
    preset_values=lambda preset, recipe, reader: {"model": {"dim": 8}} if preset == "paper" else {},
)

"""The toy's `model` section."""

from typing import ClassVar

from clip4vla.config.families import FamilyModel, FamilySettings


class Model(FamilyModel):
    """A width, and nothing to load."""

    TASKS: ClassVar[tuple[str, ...]] = ("retrieval", "classification")
    TITLE: ClassVar[str] = "A toy"
    ABOUT: ClassVar[str] = "Weights of the family of the tests."

    architecture: str = "toy"
    weights: None = None
    dim: int = 16

    PARTS: ClassVar[tuple[str, ...]] = ("text", "vision", "audio", "probe")


SETTINGS = FamilySettings(
    model=Model,
    presets={"paper": {"model.dim": 8}},
    scripts={},
    preset_values=lambda preset, recipe, reader: {"model": {"dim": 8}} if preset == "paper" else {},
)

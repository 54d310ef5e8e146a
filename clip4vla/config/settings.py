"""Settings in a weights file, from which its model and inputs can be rebuilt."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from clip4vla.config.base import Section, each_once
from clip4vla.config.data import Cache
from clip4vla.config.families import AnyModel, default_model
from clip4vla.config.run import Finetune, Pretrain, sources_of
from clip4vla.config.sections import LABEL_TASKS, Inputs, Modality, TaskName


class Settings(Section):
    """Settings of a weights file: its model, and how clips become its inputs."""

    model: AnyModel = default_model()
    inputs: Inputs = Inputs()
    cache: Cache = Field(Cache(), description="the audio front-end and the rate of frames")
    task: TaskName | None = Field(None, description="null: only towers, as after pre-training")
    modalities: list[Modality] = Field(["vision", "audio"], min_length=1)
    nonverbal_share: float | None = Field(
        0.5, ge=0, le=1, description="type token of its training; null: it had several"
    )
    classes: list[str] | None = Field(None, description="names of a probe's outputs, in order")

    _once = field_validator("modalities", "classes")(each_once)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        self.model.check_inputs(self.inputs, self.cache)
        if self.task in LABEL_TASKS and not self.classes:
            raise ValueError(f"task: {self.task} needs classes. Fix: name them with --classes")
        if self.task not in LABEL_TASKS and self.classes:
            raise ValueError(
                f"classes are for task: {' and '.join(LABEL_TASKS)}, not {self.task}. Fix: remove "
                "--classes"
            )
        return self


def settings_of(run: Pretrain | Finetune, classes: list[str] | None = None) -> Settings:
    """Return the settings of the model that a run trains."""
    shares = {source.nonverbal_share for source in sources_of(run)}
    return Settings(
        model=run.model,
        inputs=run.inputs,
        cache=run.cache,
        task=run.task if isinstance(run, Finetune) else None,
        modalities=run.modalities if isinstance(run, Finetune) else ["vision", "audio"],
        nonverbal_share=shares.pop() if len(shares) == 1 else None,
        classes=classes,
    )

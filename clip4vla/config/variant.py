"""Variants of an evaluation: the same checkpoint and clips, with another sound at test."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from clip4vla.config.base import Section
from clip4vla.config.data import AudioPolicy
from clip4vla.config.sections import Task

AudioControl = Literal["own", "silent", "shuffled", "swapped"]
DEAF = ("none", "zeros")  # policies that leave a silent clip without any sound


class Variant(Section):
    """What one variant changes; what it does not name is as in the evaluation itself."""

    missing_audio: AudioPolicy | None = Field(None, description="silent clips; null: as the row")
    audio: AudioControl = Field(
        "own",
        description="of clips with sound: their own; none at all (silent); that of another clip "
        "(shuffled); that of a clip of another kind (swapped)",
    )
    frames: bool = Field(True, description="false: without pictures, the sound alone")
    nonverbal_share: float | None = Field(
        None, ge=0, le=1, description="type token at test: 0 is [VB], 1 is [NB]; null: as the row"
    )

    @property
    def name(self) -> str:
        """What it changes, such as `audio=shuffled`: its name in metrics.json."""
        changed = {name: value for name, value in self if value != self._default(name)}
        return ", ".join(f"{name}={_text(value)}" for name, value in changed.items())

    def _default(self, name: str) -> Any:
        return type(self).model_fields[name].default

    def hears_only(self, modalities: Sequence[str]) -> bool:
        """Whether the sound alone stands for a clip."""
        return "vision" not in modalities or not self.frames

    def galleries(self, modalities: Sequence[str], missing_audio: AudioPolicy) -> tuple[str, ...]:
        """Which galleries can be scored; `missing_audio`: of the evaluation."""
        policy = self.missing_audio or missing_audio
        deaf = policy == "filter" or (policy in DEAF and self.hears_only(modalities))
        return ("with_sound",) if deaf else ("all", "with_sound")

    def check(
        self, modalities: Sequence[str], type_token: str, gated: bool, task: Task = "retrieval"
    ) -> None:
        """ValueError for a variant that the evaluation cannot have. `gated`: fusion is a gate."""
        if self.missing_audio == "released_links" and task == "classification":
            raise ValueError(
                f"variant {self.name}: compares captions, and the clips of a classification have "
                "none. Fix: choose another policy"
            )
        if "audio" not in modalities:
            raise ValueError(f"variant {self.name}: the row's modalities have no audio")
        if self.nonverbal_share is not None and type_token != "single":
            raise ValueError(
                f"variant {self.name}: nonverbal_share is read by model.type_token: single alone"
            )
        if not self.frames and "vision" not in modalities:
            raise ValueError(f"variant {self.name}: the row's modalities have no vision")
        if not self.frames and gated:
            raise ValueError(f"variant {self.name}: a gate weighs vision against audio")
        if self.audio == "silent" and self.hears_only(modalities):
            raise ValueError(f"variant {self.name}: nothing is left to score")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)

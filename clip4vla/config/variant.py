"""Variants of an evaluation: the same checkpoint and clips, with other audio at test."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from clip4vla.config.base import Section
from clip4vla.config.data import AudioPolicy
from clip4vla.config.sections import LABEL_TASKS, Query, TaskName

AudioControl = Literal["own", "silent", "shuffled", "swapped"]
NO_AUDIO_POLICIES = ("none", "zeros")  # silent clips stay without audio


class Variant(Section):
    """Changes of one variant; other settings are those of the evaluation itself."""

    missing_audio: AudioPolicy | None = Field(None, description="of silent clips; null: the row's")
    audio: AudioControl = Field(
        "own",
        description="audio of clips with audio: their own; none (silent); another clip's "
        "(shuffled); that of a clip of another kind (swapped)",
    )
    frames: bool = Field(True, description="false: audio only, without frames")
    nonverbal_share: float | None = Field(
        None, ge=0, le=1, description="type token at test: 0 is [VB], 1 is [NB]; null: the row's"
    )

    @property
    def name(self) -> str:
        """Return the name in metrics.json: its changes, such as `audio=shuffled`."""
        changed = {name: value for name, value in self if value != self._default(name)}
        return ", ".join(f"{name}={_text(value)}" for name, value in changed.items())

    def _default(self, name: str) -> Any:
        return type(self).model_fields[name].default

    def is_audio_only(self, modalities: Sequence[str]) -> bool:
        """Return whether clips are represented by their audio only."""
        return "vision" not in modalities or not self.frames

    def galleries(self, modalities: Sequence[str], missing_audio: AudioPolicy) -> tuple[str, ...]:
        """Return the galleries that can be scored; missing_audio: of the evaluation."""
        policy = self.missing_audio or missing_audio
        unscored = policy in NO_AUDIO_POLICIES and self.is_audio_only(modalities)
        return ("with_sound",) if policy == "filter" or unscored else ("all", "with_sound")

    def check(
        self,
        modalities: Sequence[str],
        task: TaskName = "retrieval",
        query: Query = "text",
    ) -> None:
        """Raise ValueError for an impossible variant."""
        if self.missing_audio == "released_links" and task in LABEL_TASKS:
            raise ValueError(
                f"variant {self.name}: compares captions, and the clips of a {task} have none. "
                "Fix: choose another policy"
            )
        removes = {"missing_audio": self.missing_audio not in (None, "filter")}
        removes |= {"audio": self.audio == "silent", "frames": not self.frames}
        for name, removed in removes.items():
            if query != "text" and removed:
                raise ValueError(
                    f"variant {self.name}: query: {query} needs the sound and the picture of every "
                    f"clip. Fix: remove `{name}`"
                )
        if "audio" not in modalities:
            raise ValueError(
                f"variant {self.name}: the row's modalities have no audio. Fix: remove it"
            )
        if not self.frames and "vision" not in modalities:
            raise ValueError(
                f"variant {self.name}: the row's modalities have no vision. Fix: remove `frames`"
            )
        if self.audio == "silent" and self.is_audio_only(modalities):
            raise ValueError(f"variant {self.name}: nothing is left to score. Fix: remove it")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)

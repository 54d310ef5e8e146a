"""What a scorer of a task gets, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from clip4vla.common.files import sha256_of_ids
from clip4vla.config.run import Evaluate
from clip4vla.config.sections import Modality
from clip4vla.datasets.videos import same_video
from clip4vla.inference.audio_controls import Sounds
from clip4vla.inference.feature_cache import FeatureSamples
from clip4vla.inference.gallery import Gallery
from clip4vla.loading.samples import ClipSamples
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.clip_model import ClipModel

if TYPE_CHECKING:
    from clip4vla.metrics.captions import CaptionScores, Groups

ScoreCaptions = Callable[[dict[str, str], "Groups"], "CaptionScores"]


@dataclass
class Scoring:
    """What the scorers of all tasks need. `galleries`: bool [N] of the clips of each one.

    names: the modalities that metrics are named by: a variant without frames keeps the names.
    benchmark: the protocol that the split stands for.
    videos: the video of each clip; None: clips that share one are not counted.
    texts, score_captions: what variants share, vectors of captions and a METEOR at work.
    """

    run: Evaluate
    model: ClipModel
    samples: ClipSamples | FeatureSamples
    rows: pd.DataFrame
    galleries: dict[str, np.ndarray]
    sounds: Sounds
    device: torch.device
    workers: int
    names: list[Modality]
    benchmark: str
    frozen_cache: bool = True
    videos: Mapping[str, str] | None = None
    score_captions: "ScoreCaptions | None" = None
    texts: dict[tuple[str, ...], Features] = field(default_factory=dict)

    @property
    def clip_ids(self) -> np.ndarray:
        """The scored clips [N]."""
        return np.array([clip_id for clip_id, _, _ in self.samples.items])

    @property
    def where(self) -> str:
        """The scored split, for messages."""
        return f"{self.run.test.dataset}, split {self.run.test.split}"

    @property
    def main(self) -> str:
        """The gallery that predictions are of."""
        return "all" if "all" in self.galleries else "with_sound"

    def gallery(self) -> Gallery:
        """The clips as a gallery to search."""
        return Gallery(
            model=self.model,
            samples=self.samples,
            run=self.run,
            scale=self.run.scale,
            device=self.device,
            workers=self.workers,
            texts=self.texts,
        )

    def protocol(self, gallery: str) -> str:
        """The name of a gallery's protocol: the benchmark's, with `-sound` without silent clips."""
        return self.benchmark if gallery == "all" else f"{self.benchmark}-sound"

    def described(self, scored: "Scored") -> dict[str, dict]:
        """The galleries as metrics.json has them: protocol, N, hash of the ids, metrics."""
        described = {}
        for name, kept in self.galleries.items():
            ids = self.clip_ids[kept].tolist()
            shared = {} if self.videos is None else {"same_video": same_video(ids, self.videos)}
            described[name] = {
                "protocol": self.protocol(name),
                "n_queries": scored.queries[name],
                "n_gallery": len(ids),
                "ids_sha256": sha256_of_ids(ids),
                **shared,
                **scored.stated[name],
            }
        return described

    def with_origins(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Predictions with whose sound each clip had, and what that is to it."""
        silent = self.samples.cache.silent

        def origin(clip: str) -> str:
            sound = self.sounds[clip]
            if sound is None:
                return "none"
            if sound == clip:
                return "own"
            return "donor" if clip in silent else "other"

        clips = predictions.clip_id
        return predictions.assign(audio_origin=clips.map(origin), sound_of=clips.map(self.sounds))


@dataclass
class Scored:
    """What metrics.json states of each gallery, `metrics` at least, and its number of queries;
    predictions of the main one, and by gallery the score of every query: rank, CIDEr, 1 for a right
    class, or label precision. classes: of scored labels.
    """

    stated: dict[str, dict[str, dict]]
    queries: dict[str, int]
    predictions: pd.DataFrame
    each: dict[str, pd.Series]
    classes: list[str] | None = None

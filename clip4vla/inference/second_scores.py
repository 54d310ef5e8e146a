"""Second scores of pairs of a text and a clip, for the candidates that the first scores choose."""

import numpy as np
import torch

from clip4vla.models.common.batch_features import Features, count_of
from clip4vla.models.common.scorer import Scorer


class SecondScores:
    """Scores of pairs by `Scorer.rescored`, each made once, when a gallery first wants it."""

    def __init__(self, scorer: Scorer, texts: Features, clips: Features):
        """Keep what is scored: features of Q texts and N clips."""
        self.scorer, self.texts, self.clips = scorer, texts, clips
        self.scores = np.full((count_of(texts), count_of(clips)), np.nan, dtype=np.float32)
        self.scored = np.zeros(self.scores.shape, dtype=bool)

    @torch.no_grad()
    def among(self, texts: np.ndarray, clips: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Return second scores of a gallery's q texts and n clips, float32 [q, n].

        texts, clips: which of all of them, bool [Q] and [N]; wanted: of which pairs, bool [q, n].
        A pair that no gallery has wanted is NaN.
        """
        part = np.ix_(texts, clips)
        missing = np.zeros_like(self.scored)
        missing[part] = wanted & ~self.scored[part]
        pairs = np.argwhere(missing)  # [P, 2]
        if len(pairs):
            found = self.scorer.rescored(self.texts, self.clips, torch.from_numpy(pairs))
            self.scores[missing] = found.float().cpu().numpy()
        self.scored |= missing
        return self.scores[part]

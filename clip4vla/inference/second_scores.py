"""Second scores of pairs of a text and a clip, for the candidates that the first scores choose."""

import numpy as np
import torch

from clip4vla.common.device import in_float32
from clip4vla.common.progress import track
from clip4vla.models.common.batch_features import Features, count_of
from clip4vla.models.common.scorer import SecondScorer

PAIRS = 256  # scored at once; always as many, because the shape can change the last bits


class SecondScores:
    """Scores of pairs by a `SecondScorer`, each made once, when a gallery first asks for it."""

    def __init__(
        self, scorer: SecondScorer, texts: Features, clips: Features, device: torch.device
    ):
        """Keep what is scored: features of Q texts and N clips. device: the model's."""
        self.scorer, self.texts, self.clips, self.device = scorer, texts, clips, device
        self.scores = np.full((count_of(texts), count_of(clips)), np.nan, dtype=np.float32)
        self.scored = np.zeros(self.scores.shape, dtype=bool)

    @torch.no_grad()
    def among(self, texts: np.ndarray, clips: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Return second scores of a gallery's q texts and n clips, float32 [q, n]; NaN: not wanted.

        texts, clips: which of all of them, bool [Q] and [N]; wanted: of which pairs, bool [q, n].
        """
        part = np.ix_(texts, clips)
        missing = np.zeros_like(self.scored)
        missing[part] = wanted & ~self.scored[part]
        clip, text = np.nonzero(missing.T)  # pairs of a clip one after another
        with in_float32(self.device):
            for start in track(range(0, len(text), PAIRS), "score pairs again"):
                rows = slice(start, start + PAIRS)
                self.scores[text[rows], clip[rows]] = self._scored(text[rows], clip[rows])
        self.scored |= missing
        return self.scores[part]

    def _scored(self, text: np.ndarray, clip: np.ndarray) -> np.ndarray:
        """Return the scores [P] of at most `PAIRS` pairs; the last one fills the block."""
        own_texts, row = np.unique(text, return_inverse=True)
        own_clips, column = np.unique(clip, return_inverse=True)
        pairs = np.pad(np.stack([row, column], axis=1), ((0, PAIRS - len(row)), (0, 0)), "edge")
        scores = self.scorer.rescored(
            queries=self._rows(self.texts, own_texts),
            clips=self._rows(self.clips, own_clips),
            pairs=torch.from_numpy(pairs).to(self.device),
        )
        return scores[: len(row)].float().cpu().numpy()

    def _rows(self, features: Features, rows: np.ndarray) -> Features:
        index = torch.from_numpy(rows)
        return {name: x[index].to(self.device) for name, x in features.items()}

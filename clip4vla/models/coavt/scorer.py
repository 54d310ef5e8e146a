"""CoAVT's similarities of texts and clips, and the second look of the matching head (facts 4.1)."""

import torch
from torch import Tensor

from clip4vla.common.device import autocast
from clip4vla.common.progress import track
from clip4vla.config.sections import Modality
from clip4vla.metrics.text_clip import similarity_name
from clip4vla.models.coavt.model import CoAVT
from clip4vla.models.coavt.similarity import best_cosines
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.encoded import Encoded, FeatureSequence
from clip4vla.models.common.pooling import masked_mean, normalise
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.common.similarity import across

NAMES: dict[str, str] = {"av": "t_va", "vision": "t_v", "audio": "t_a"}  # stream -> similarity
TEXTS = 32  # of one clip in a row of a batch of pairs
CPU_PAIRS, GPU_PAIRS = 64, 1024  # pairs of a batch


class QueryScorer(Scorer):
    """Cosines of a text with the best of a clip's queries, of each stream.

    Sounds and pictures are compared by the mean tokens of E_A and E_V (facts 4.3). rescores: keep
    the tokens of the widest stream for `rescored`, in half precision.
    """

    def __init__(self, model: CoAVT, modalities: list[Modality], rescores: bool):
        self.model, self.rescores = model, rescores
        self.name = similarity_name(modalities)

    def clip_features(self, encoded: Encoded) -> Features:
        """Return mean tokens `audio`, `vision` [B, W], and vectors `t_va` ... [B, Q, D]."""
        features: Features = {}
        for stream, clip in self.model.streams(encoded).items():
            name = NAMES[stream]
            states = self.model.query.queries_alone(clip)
            present = clip.mask.any(dim=1)  # a clip without sound is like no text
            features[name] = self.model.query_vectors(states) * present[:, None, None]
            if stream != "av":
                features[stream] = normalise(masked_mean(*clip))
            if self.rescores and name == self.name:
                features |= {"tokens": clip.features.half(), "mask": clip.mask}
        return features

    def text_features(self, tokens: Tensor) -> Features:
        """Return the vectors of texts [B, D], and their tokens [B, L] for `rescored`."""
        words = {"words": tokens} if self.rescores else {}
        return {"text": self.model.encode_text(tokens)[1], **words}

    def scores(self, queries: Features, clips: Features, scale: float) -> dict[str, Tensor]:
        """See `Scorer.scores`."""
        if "text" not in queries:
            return across(queries, clips, scale)
        return {
            name: scale * best_cosines(clips[name], queries["text"]).T
            for name in NAMES.values()
            if name in clips
        }

    def scored_on(self, device: torch.device) -> torch.device:
        """See `ClipModel.compared_on`."""
        return self.model.compared_on(device)

    @torch.no_grad()
    def rescored(self, queries: Features, clips: Features, pairs: Tensor) -> Tensor:
        """Return the matching logit of pairs plus their cosine, as LAVIS (facts 8.6): float32 [P].

        See `Scorer.rescored`. Pairs of the same clip are computed in one row of a batch, for which
        the clip's keys and values are computed once.
        """
        device = self.model.temperature.device
        at_once = CPU_PAIRS if device.type == "cpu" else GPU_PAIRS
        scores = torch.empty(len(pairs))
        places = rows_by_group(pairs[:, 1], TEXTS)  # [R, T]
        for rows in track(places.split(max(1, at_once // places.shape[1])), "rescore pairs"):
            texts, (clip, _) = pairs[rows, 0].flatten(), pairs[rows[:, 0]].T.flip(0)
            tokens = FeatureSequence(
                clips["tokens"][clip].to(device).float(), clips["mask"][clip].to(device)
            )
            with autocast(device, self.model):
                logits = self.model.matching_logits(queries["words"][texts].to(device), tokens)
            by_query = clips[self.name][clip] @ queries["text"][texts].unflatten(0, rows.shape).mT
            scores[rows] = logits[:, 1].float().cpu().view(rows.shape) + by_query.amax(dim=1)
        return scores


def rows_by_group(groups: Tensor, size: int) -> Tensor:
    """Return indices into `groups`, int64 [R, T], such that those of a row have equal values.

    T is `size`, or less if all groups are smaller. A row with fewer indices repeats its first.
    """
    order = groups.argsort(stable=True)
    counts = groups[order].unique_consecutive(return_counts=True)[1]
    rows = [
        row for group in order.split(counts.tolist()) for row in group.split(size)
    ]  # of different lengths
    width = max(map(len, rows))
    return torch.stack([torch.cat([row, row[:1].expand(width - len(row))]) for row in rows])

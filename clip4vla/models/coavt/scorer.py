"""CoAVT's similarities of texts and clips, and the second look of the matching head (facts 4.1)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clip4vla.config.sections import Modality
from clip4vla.metrics.text_clip import similarity_name
from clip4vla.models.coavt.model import CoAVT
from clip4vla.models.coavt.similarity import best_cosines
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.encoded import Encoded, FeatureSequence
from clip4vla.models.common.pooling import masked_mean, normalise
from clip4vla.models.common.scorer import SecondScorer
from clip4vla.models.common.similarity import across

NAMES: dict[str, str] = {"av": "t_va", "vision": "t_v", "audio": "t_a"}  # stream -> similarity
TEXTS = 32  # of one clip that read its keys and values at once


class QueryScorer(SecondScorer):
    """Cosines of a text with the best of a clip's queries, of each stream.

    Sounds and pictures are compared by the mean tokens of E_A and E_V (facts 4.3). rescores: keep
    the tokens of the widest stream for `rescored`, in half precision.
    """

    second = ("tokens", "mask", "words")
    vectors: Mapping[str, str] = {name: name for name in NAMES.values()}

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
                features[stream] = normalise(masked_mean(clip.features, clip.mask))
            if self.rescores and name == self.name:
                features |= {"tokens": clip.features.half(), "mask": clip.mask}
        return features

    def alone_features(self, encoded: Encoded) -> Features:
        """See `Scorer.alone_features`: mean tokens, which no query reads."""
        return {
            name: normalise(masked_mean(clip.features, clip.mask))
            for name, clip in self.model.streams(encoded).items()
        }

    def text_features(self, tokens: Tensor) -> Features:
        """Return the vectors of texts [B, D], and their tokens [B, L] for `rescored`."""
        words = {"words": tokens} if self.rescores else {}
        return {"text": self.model.encode_text(tokens)[1], **words}

    def scores(self, queries: Features, clips: Features, scale: float) -> dict[str, Tensor]:
        """See `Scorer.scores`."""
        if "text" not in queries:
            return across(mean_tokens(queries), mean_tokens(clips), scale)
        return {
            name: scale * best_cosines(clips[name], queries["text"]).T
            for name in NAMES.values()
            if name in clips
        }

    def scored_on(self, device: torch.device) -> torch.device:
        """See `ClipModel.compared_on`."""
        return self.model.compared_on(device)

    def rescored(self, queries: Features, clips: Features, pairs: Tensor) -> Tensor:
        """Return the matching logit of pairs plus their cosine, as LAVIS (facts 8.6).

        See `SecondScorer.rescored`. Texts of the same clip read its keys and values at once.
        """
        clip = FeatureSequence(clips["tokens"].float(), clips["mask"])
        keys = self.model.query.keys_of(clip)
        places = rows_by_group(pairs[:, 1], TEXTS)  # [R, T]
        texts, column = pairs[places, 0], pairs[places[:, 0], 1]
        logits = self.model.matching_logits(queries["words"][texts.flatten()], keys.rows(column))
        cosines = clips[self.name][column] @ queries["text"][texts].mT  # [R, Q, T]
        scores = torch.empty(len(pairs), device=pairs.device)
        scores[places] = logits[:, 1].view(places.shape) + cosines.amax(dim=1)
        return scores


def mean_tokens(features: Features) -> Features:
    """Return the mean tokens of clips that were encoded by one modality."""
    return {name: x for name, x in features.items() if name in ("audio", "vision")}


def rows_by_group(groups: Tensor, size: int) -> Tensor:
    """Return indices into `groups`, int64 [R, T], such that those of a row have equal values.

    T is `size`, or less if all groups are smaller. A row with fewer indices repeats its first.
    """
    order = groups.argsort(stable=True)
    counts = groups[order].unique_consecutive(return_counts=True)[1]
    rows = [row for group in order.split(counts.tolist()) for row in group.split(size)]
    padded = pad_sequence(rows, batch_first=True, padding_value=-1)
    return padded.where(padded >= 0, padded[:, :1])

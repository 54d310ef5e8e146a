"""Similarities of all texts with all clips of a split, by the run's fusion (facts 7.1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from clip4vla.config.run import GATES, MIXING_FUSIONS, Evaluate, Finetune
from clip4vla.evaluation.features import clip_batches, embed_texts, joined_clips
from clip4vla.evaluation.reading import WHOLE, Part
from clip4vla.evaluation.retrieval import Blocks, blocks_of
from clip4vla.evaluation.sequences import embed_words, joined_sequences, sequence_batches
from clip4vla.evaluation.text_clip import similarity_name
from clip4vla.features.samples import ClipSamples
from clip4vla.models.clip4vla import CLIP4VLA
from clip4vla.models.pairs import score_pairs
from clip4vla.models.similarity import similarities
from clip4vla.progress import track

BLOCK = 1024  # queries in one block of the similarity matrix


@dataclass(frozen=True)
class Gallery:
    """Clips to search, and how: what validation and evaluation have in common.

    scale: 1 / temperature, of the objective or of the evaluation; it changes no rank.
    """

    model: CLIP4VLA
    samples: ClipSamples
    run: Finetune | Evaluate
    scale: float
    device: torch.device
    workers: int

    @property
    def clip_ids(self) -> list[str]:
        """The clips, in the order of the columns."""
        return [clip_id for clip_id, _, _ in self.samples.items]

    @property
    def scores_pairs(self) -> bool:
        """Whether every pair of a text and a clip passes the joint encoder."""
        return self.run.model.fusion in ("tight", "local_to_local")

    def encoded(self, part: Part = WHOLE) -> list:
        """Numbered batches of encoded clips: all, or the part of one rank."""
        run, model = self.run, self.model
        given = model, self.samples, run.modalities, self.device, self.workers
        if self.scores_pairs:
            return sequence_batches(*given, part=part)
        fusion = run.model.fusion
        mix = model.fusion.mix(fusion) if fusion in MIXING_FUSIONS else None
        return clip_batches(*given, mix=mix, part=part)

    def blocks(self, captions: list[str], encoded: list | None = None) -> Blocks:
        """Rows of the similarities [Q, N] of captions and clips, float32.

        encoded: what `encoded` gives, of all ranks; made here if None. Precision: encoders may run
        in half, what scores a pair does not, as it would make ties.
        """
        return self.views(captions, encoded)[similarity_name(self.run.modalities)]

    def views(self, captions: list[str], encoded: list | None = None) -> dict[str, Blocks]:
        """`blocks` of every similarity that the fusion gives on the way: t_va, and t_v and t_a.

        A fusion that scores pairs jointly gives but the one of the run's modalities.
        """
        encoded = self.encoded() if encoded is None else encoded
        if self.scores_pairs:
            name = similarity_name(self.run.modalities)
            return {name: blocks_of(self._pairs(captions, encoded), BLOCK)}
        return self._pooled(captions, encoded)

    def _pooled(self, captions: list[str], encoded: list) -> dict[str, Blocks]:
        """Pooled vectors: as they are, after the joint encoder, or weighed by a gate."""
        run, model = self.run, self.model
        clips = joined_clips(self.samples, encoded)
        texts = embed_texts(model, captions, run.inputs.max_words, self.device)
        score, device = similarities, torch.device("cpu")
        if run.model.fusion in GATES:
            score, device = model.gate, self.device
        given = clips.vision, clips.audio, clips.has_audio
        seen, heard, has_audio = (None if x is None else x.to(device) for x in given)

        @torch.no_grad()
        def rows(part: Tensor, name: str) -> np.ndarray:
            with torch.autocast(device.type, enabled=False):
                found = score(part.to(device), seen, heard, self.scale, has_audio)
            return found[name].cpu().numpy()

        def blocks(name: str) -> Iterator[np.ndarray]:
            yield from (rows(part, name) for part in texts.split(BLOCK))

        alone = [similarity_name([modality]) for modality in run.modalities]
        names = dict.fromkeys([similarity_name(run.modalities), *alone])
        return {name: partial(blocks, name) for name in names}

    def _pairs(self, captions: list[str], encoded: list) -> np.ndarray:
        """Every pair through the joint encoder, once: [Q, N]."""
        run, model, device = self.run, self.model, self.device
        clips = [None if x is None else x.to(device) for x in joined_sequences(encoded)]
        given = model, captions, run.inputs.max_words, device
        if run.model.fusion == "tight":
            texts, masks = embed_texts(*given).split(BLOCK), None
        else:
            words, words_mask = embed_words(*given)
            texts, masks = words.split(BLOCK), words_mask.split(BLOCK)
        rows = []
        with torch.autocast(device.type, enabled=False):
            for index, part in enumerate(track(texts, "score pairs")):
                mask = None if masks is None else masks[index].to(device)
                given = model.fusion, part.to(device), mask, *clips, self.scale
                rows.append(score_pairs(*given).cpu().numpy())
        return np.concatenate(rows)

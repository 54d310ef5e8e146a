"""Similarities of all texts with all clips of a split, by the run's fusion (facts 7.1)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from clip4vla.config.run import GATES, Evaluate, Finetune
from clip4vla.evaluation.features import embed_clips, embed_texts
from clip4vla.evaluation.retrieval import Blocks, blocks_of
from clip4vla.evaluation.sequences import embed_sequences, embed_words
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
    texts: features of captions by what made them, for galleries of the same captions to share.
    """

    model: CLIP4VLA
    samples: ClipSamples
    run: Finetune | Evaluate
    scale: float
    device: torch.device
    workers: int
    texts: dict = field(default_factory=dict)

    @property
    def clip_ids(self) -> list[str]:
        """The clips, in the order of the columns."""
        return [clip_id for clip_id, _, _ in self.samples.items]

    def blocks(self, captions: list[str]) -> Blocks:
        """Rows of the similarities [Q, N] of captions and clips, float32. Features are made here.

        Precision: encoders may run in half, what scores a pair does not, as it would make ties.
        """
        if self.run.model.fusion in ("tight", "local_to_local"):
            return blocks_of(self._pairs(captions), BLOCK)
        return self._pooled(captions)

    def _pooled(self, captions: list[str]) -> Blocks:
        """Pooled vectors: as they are, after the joint encoder, or weighed by a gate."""
        run, model = self.run, self.model
        mix = model.fusion.global_to_local if run.model.fusion == "global_to_local" else None
        given = model, self.samples, run.modalities, self.device, self.workers
        clips = embed_clips(*given, mix=mix)
        texts = self._once(embed_texts, captions)
        name = similarity_name(run.modalities)
        score, device = similarities, torch.device("cpu")
        if run.model.fusion in GATES:
            score, device = model.gate, self.device
        given = clips.vision, clips.audio, clips.has_audio
        seen, heard, has_audio = (None if x is None else x.to(device) for x in given)

        @torch.no_grad()
        def rows(part: Tensor) -> np.ndarray:
            with torch.autocast(device.type, enabled=False):
                found = score(part.to(device), seen, heard, self.scale, has_audio)
            return found[name].cpu().numpy()

        def blocks() -> Iterator[np.ndarray]:
            yield from map(rows, texts.split(BLOCK))

        return blocks

    def _once(self, embed, captions: list[str]):
        """Features of the captions, made if no gallery that shares `texts` has made them."""
        key = embed.__name__, tuple(captions)
        if key not in self.texts:
            given = self.model, captions, self.run.inputs.max_words, self.device
            self.texts[key] = embed(*given)
        return self.texts[key]

    def _pairs(self, captions: list[str]) -> np.ndarray:
        """Every pair through the joint encoder, once: [Q, N]."""
        run, model, device = self.run, self.model, self.device
        given = model, self.samples, run.modalities, device, self.workers
        clips = [None if x is None else x.to(device) for x in embed_sequences(*given)]
        if run.model.fusion == "tight":
            texts, masks = self._once(embed_texts, captions).split(BLOCK), None
        else:
            words, words_mask = self._once(embed_words, captions)
            texts, masks = words.split(BLOCK), words_mask.split(BLOCK)
        rows = []
        with torch.autocast(device.type, enabled=False):
            for index, part in enumerate(track(texts, "score pairs")):
                mask = None if masks is None else masks[index].to(device)
                given = model.fusion, part.to(device), mask, *clips, self.scale
                rows.append(score_pairs(*given).cpu().numpy())
        return np.concatenate(rows)

"""Similarities of all texts with all clips of a split, by the run's fusion (facts 7.1)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from clip4vla.common.progress import track
from clip4vla.config.run import Evaluate, Finetune
from clip4vla.config.sections import GATES, MIXING_FUSIONS
from clip4vla.inference.features import clip_batches, embed_texts, joined_clips
from clip4vla.inference.sequences import embed_words, joined_sequences, sequence_batches
from clip4vla.loading.loader import WHOLE, Part
from clip4vla.loading.samples import ClipSamples
from clip4vla.metrics.retrieval import Blocks
from clip4vla.metrics.text_clip import similarity_name
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.pairs import score_pairs
from clip4vla.models.common.encoded import each
from clip4vla.models.common.similarity import similarities

TEXTS = 1024  # in one block of pairs
CELLS = 1 << 24  # of one block of the similarity matrix: 64 MB
SIDE = 256  # sides of a product are multiples of it, see `_padded`


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
            rows = self._pairs(captions, encoded)
            return {name: lambda: rows}
        return self._pooled(captions, encoded)

    def _pooled(self, captions: list[str], encoded: list) -> dict[str, Blocks]:
        """Pooled vectors: as they are, after the joint encoder, or weighed by a gate."""
        run, model = self.run, self.model
        clips = joined_clips(self.samples, encoded)
        texts = self._once(embed_texts, captions)
        gated = run.model.fusion in GATES
        score, device = (model.gate, self.device) if gated else (similarities, torch.device("cpu"))
        given = clips.vision, clips.audio, None if clips.has_audio.all() else clips.has_audio
        seen, heard, has_audio = (None if x is None else _padded(x.to(device)) for x in given)

        def blocks(name: str) -> Blocks:
            vision, audio = seen if name != "t_a" else None, heard if name != "t_v" else None

            @torch.no_grad()
            def rows(part: Tensor) -> Tensor:
                with torch.autocast(device.type, enabled=False):
                    return score(part.to(device), vision, audio, self.scale, has_audio)[name]

            return product_blocks(texts, len(clips.clip_ids), rows)

        alone = [similarity_name([modality]) for modality in run.modalities]
        return {name: blocks(name) for name in (similarity_name(run.modalities), *alone)}

    def _once(self, embed, captions: list[str]):
        """Features of the captions, made if no gallery that shares `texts` has made them."""
        key = embed.__name__, tuple(captions)
        if key not in self.texts:
            given = self.model, captions, self.run.inputs.max_words, self.device
            self.texts[key] = embed(*given)
        return self.texts[key]

    def _pairs(self, captions: list[str], encoded: list) -> list[np.ndarray]:
        """Every pair through the joint encoder, once: the blocks of [Q, N]."""
        run, model, device = self.run, self.model, self.device
        clips = each(joined_sequences(encoded), lambda x: x.to(device))
        if run.model.fusion == "tight":
            texts, masks = self._once(embed_texts, captions).split(TEXTS), None
        else:
            words, words_mask = self._once(embed_words, captions)
            texts, masks = words.split(TEXTS), words_mask.split(TEXTS)
        rows = []
        with torch.autocast(device.type, enabled=False):
            for index, part in enumerate(track(texts, "score pairs")):
                mask = None if masks is None else masks[index].to(device)
                scores = score_pairs(
                    fusion=model.fusion,
                    text=part.to(device),
                    text_mask=mask,
                    clip=clips,
                    scale=self.scale,
                )
                rows.append(scores.cpu().numpy())
        return rows


def product_blocks(
    texts: Tensor, clips: int, rows: Callable[[Tensor], Tensor], cells: int = CELLS
) -> Blocks:
    """Blocks of [Q, N] from texts [Q, D] and what gives the rows [q, N or more] of some of them.

    So many texts are scored at once that a block has about `cells` cells.
    """
    size = max(SIDE, cells // clips // SIDE * SIDE)

    def blocks() -> Iterator[np.ndarray]:
        for part in texts.split(size):
            yield rows(_padded(part))[: len(part), :clips].cpu().numpy()

    return blocks


def _padded(x: Tensor) -> Tensor:
    """x [n, ...] with rows of zeros up to a multiple of `SIDE`.

    Products of small or odd shapes add up in another order: the same caption or clip could differ
    in the last bit between two places, and what is equal would not tie.
    """
    return pad(x, (*[0] * (2 * x.ndim - 1), -len(x) % SIDE))

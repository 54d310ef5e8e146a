"""Captions from a clip's queries: from [DEC] to [SEP], greedily or by beam search (facts 2.4)."""

import torch
from torch import Tensor

from clip4vla.config.sections import Decoding
from clip4vla.loading.tokens import ControlTokens
from clip4vla.models.coavt.heads import LanguageHead
from clip4vla.models.coavt.query_encoder import QueryEncoder
from clip4vla.models.coavt.query_layer import ClipKeys
from clip4vla.models.common.beam_search import Caption, DecoderSteps, beam_search
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.key_value_cache import KeyValueCache, with_newest


@torch.no_grad()
def decode(
    encoder: QueryEncoder,
    head: LanguageHead,
    clip: FeatureSequence,
    decoding: Decoding,
    control: ControlTokens,
    max_words: int,
) -> list[Caption]:
    """Write a caption for every clip of a batch, independent of the other clips.

    encoder: in evaluation mode. clip: the tokens that its queries read. max_words: the maximum
    number of tokens, including the end; at most the text positions. ValueError when the encoder is
    in training mode.
    """
    if encoder.training:
        raise ValueError("decoding needs model.eval(): dropout would change the words")
    beams = decoding.beams if decoding.method == "beam" else 1
    keys = encoder.keys_of(clip)
    steps: DecoderSteps
    if decoding.cache:
        steps = CachedSteps(encoder, head, keys, room=beams * max_words)
    else:
        steps = UncachedSteps(encoder, head, keys)
    return beam_search(
        steps,
        clips=keys.clips,
        beams=beams,
        max_words=max_words,
        device=clip.features.device,
        control=control,
        length_penalty=decoding.length_penalty,
        stopping=decoding.stopping,
    )


class UncachedSteps:
    """Steps that encode queries and all words so far again (`beam_search.DecoderSteps`)."""

    def __init__(self, encoder: QueryEncoder, head: LanguageHead, keys: ClipKeys):
        self.encoder, self.head, self.keys = encoder, head, keys

    def logits(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """See `DecoderSteps`."""
        words = tokens.flatten(0, 1)  # [B * k, t]
        mask = torch.ones_like(words, dtype=torch.bool)
        _, states = self.encoder.together(words, mask, self.keys, causal=True)
        logits = self.head(states[:, -1], self.encoder.words.weight)
        return logits.unflatten(0, tokens.shape[:2])

    def select(self, clips: Tensor) -> None:
        """See `DecoderSteps`."""
        self.keys = self.keys.rows(clips)


class CachedSteps:
    """Steps that encode only the newest words (`beam_search.DecoderSteps`).

    Queries never attend to words, so they are encoded once, and words only need their keys and
    values in each layer. room: maximum number of words of a clip in all of its hypotheses.
    """

    def __init__(self, encoder: QueryEncoder, head: LanguageHead, keys: ClipKeys, room: int):
        self.encoder, self.head = encoder, head
        self.queries = len(encoder.queries)
        x = encoder.first_queries(keys.clips)
        of_queries = []
        for layer, source in zip(encoder.query_layers(), keys.layers, strict=True):
            of_queries.append(layer.keys_values(x))
            x = layer(x, None, self.queries, source)
        self.cache = KeyValueCache(encoder.query_layers(), self.queries + room)
        self.cache.begin(of_queries)
        # bool [B, k, words of all hypotheses]: those of each hypothesis
        self.own_words = x.new_zeros(len(x), 1, 0, dtype=torch.bool)

    def logits(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """See `DecoderSteps`."""
        self.own_words = with_newest(self.own_words, parents)
        position = tokens.shape[-1] - 1
        x = self.encoder.embed(tokens[..., -1:], position).squeeze(2)  # [B, k, W]
        of_queries = self.own_words.new_ones(*parents.shape, self.queries)
        x = self.cache.extend(x, torch.cat([of_queries, self.own_words], dim=-1))
        return self.head(x, self.encoder.words.weight)

    def select(self, clips: Tensor) -> None:
        """See `DecoderSteps`."""
        self.own_words = self.own_words[clips]
        self.cache.select(clips)

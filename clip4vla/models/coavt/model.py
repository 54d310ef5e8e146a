"""CoAVT: a joint audio-visual encoder, queries that read it, and the text encoder (facts 1)."""

from collections.abc import Collection, Iterable
from dataclasses import asdict
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from clip4vla.config.sections import Decoding, Modality
from clip4vla.loading.processor import Processor
from clip4vla.models.coavt.blocks import STREAMS, Block, SharedBlock, Stream
from clip4vla.models.coavt.decoding import decode
from clip4vla.models.coavt.encoder import AudioStack, SharedBlocks, Stack, VisualStack
from clip4vla.models.coavt.heads import LanguageHead, MatchingHead
from clip4vla.models.coavt.losses import LanguageLoss, language_loss
from clip4vla.models.coavt.objective import Alignment
from clip4vla.models.coavt.processor import BertTexts, ClipTexts
from clip4vla.models.coavt.query_encoder import QueryEncoder
from clip4vla.models.coavt.query_layer import ClipKeys
from clip4vla.models.coavt.settings import Model
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.coavt.text_encoder import TextEncoder
from clip4vla.models.coavt.text_ids import TEXT_IDS
from clip4vla.models.coavt.word_pieces import empty_table, pieces_of
from clip4vla.models.common.bert_block import BertBlock, draw_weights
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.encoded import Encoded, FeatureSequence
from clip4vla.models.common.images import IMAGE_STATISTICS
from clip4vla.models.common.parts import part_hash
from clip4vla.models.common.pooling import normalise
from clip4vla.models.common.probe import Probe
from clip4vla.models.common.task import Batch

TEMPERATURE = 0.07  # initial; BLIP-2's (facts 1.4)
LEAST_TEMPERATURE = 0.01  # as CLIP's
STREAM_OF: dict[Alignment, Stream] = {"av": "av", "a": "audio", "v": "vision"}


class CoAVT(ClipModel):
    """Streams of sound, pictures and both, and queries that relate them to texts.

    `encode_clips` returns the tokens of the stacks, which depend on one modality each; `streams`
    those of the shared blocks, E_A, E_V and E_AV. `text` is None where texts run through the query
    encoder; `probe` is None unless the task adds it. All vectors that are compared have unit
    length.
    """

    apart = False  # the joint stream of a clip depends on both modalities
    text: TextEncoder | None
    probe: Probe | None

    def __init__(self, sizes: Sizes, config: Model):
        super().__init__()
        self.sizes, self.config, self.text_ids = sizes, config, TEXT_IDS[config.tokenizer]
        activation, width = config.activation, sizes.query_width
        self.audio = AudioStack(sizes, activation, config.input_norm)
        self.vision = VisualStack(
            sizes, activation, config.input_norm, IMAGE_STATISTICS[config.image_stats]
        )
        self.shared = SharedBlocks(sizes, activation, config.missing)
        self.query = QueryEncoder(sizes, config.dropout)
        if config.tokenizer == "bert":
            self.query.register_buffer("pieces", empty_table())
        self.text = None if config.share_text else TextEncoder(sizes, config.dropout)
        self.query_proj = nn.Linear(width, sizes.joint_width)
        self.text_proj = nn.Linear(width, sizes.joint_width)
        for projection in (self.query_proj, self.text_proj):
            draw_weights(projection)
        self.matching = MatchingHead(width)
        self.language = LanguageHead(width, sizes.vocabulary)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.register_module("probe", None)

    def add_probe(self, n_classes: int) -> None:
        """Attach a linear probe on the mean token of a clip (facts 4.2)."""
        self.probe = Probe(self.sizes.width, n_classes)

    @cached_property
    def processor(self) -> Processor:
        """See `ClipModel.processor`: read the word pieces of BERT once weights are loaded."""
        if self.config.tokenizer == "clip":
            return ClipTexts()
        return BertTexts(pieces_of(self.query.get_buffer("pieces")))

    def encode_clips(self, batch: Batch, modalities: Iterable[Modality]) -> Encoded:
        """Return the tokens of the stacks, `audio` [B, n, W] and `vision` [B, F * m, W].

        Features that are already in the batch are returned unchanged.
        """
        features = batch.get("features")
        if features is not None:
            masks = {"vision": batch["frame_mask"], "audio": batch["audio_mask"]}
            return {name: FeatureSequence(x, masks[name]) for name, x in features.items()}
        encoded: Encoded = {}
        if "audio" in modalities:
            encoded["audio"] = self.audio(batch["audio"], batch["audio_mask"])
        if "vision" in modalities:
            encoded["vision"] = self.vision(batch["frames"], batch["frame_mask"])
        return encoded

    def streams(self, own: Encoded, streams: Collection[Stream] = STREAMS) -> Encoded:
        """Return E_A, E_V and E_AV as `audio`, `vision` and `av` (facts 1.3).

        own: from `encode_clips`; streams: those that are wanted.
        """
        return self.shared(own, streams)

    def whole(self, encoded: Encoded) -> Encoded:
        """Return E_AV alone, or the one stream of clips of one modality."""
        both: tuple[Stream, ...] = ("av",)
        return self.streams(encoded, both if len(encoded) == 2 else ("audio", "vision"))

    def encode_text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of every token [B, L, W] and the vector of the text [B, D]."""
        states = (self.text or self.query).text_alone(tokens, self.text_ids.valid(tokens))
        return states, normalise(self.text_proj(states[:, 0]))

    def query_vectors(self, states: Tensor) -> Tensor:
        """Return unit vectors [B, Q, D] of the states of queries."""
        return normalise(self.query_proj(states))

    def matching_logits(self, tokens: Tensor, clip: FeatureSequence | ClipKeys) -> Tensor:
        """Return the logits (no, yes) [B, 2] of texts with clips; see `QueryEncoder.together`."""
        mask = self.text_ids.valid(tokens)
        states, _ = self.query.together(tokens, mask, clip, causal=False)
        return self.matching(states).float()

    def language_loss(
        self, tokens: Tensor, clip: FeatureSequence | ClipKeys, smoothing: float
    ) -> tuple[LanguageLoss, Tensor]:
        """Return the loss of the words of texts, and the states [B, Q, W] of the clips' queries.

        Queries attend to no word, so the states are those of `queries_alone`.
        """
        mask = self.text_ids.valid(tokens)
        read = tokens.clone()
        read[:, 0] = self.text_ids.decode
        states, words = self.query.together(read, mask, clip, causal=True)
        loss = language_loss(
            self.language,
            words=self.query.words.weight,
            states=words,
            tokens=read,
            mask=mask,
            smoothing=smoothing,
        )
        return loss, states

    @property
    def dim(self) -> int:
        """See `ClipModel.dim`: the width of tokens."""
        return self.sizes.width

    def write_captions(self, clips: Encoded, decoding: Decoding, max_words: int) -> list[list[int]]:
        """See `ClipModel.write_captions`: from the queries of E_AV, or of the one stream."""
        (clip,) = self.whole(clips).values()
        captions = decode(
            self.query,
            self.language,
            clip,
            decoding=decoding,
            control=self.text_ids.control,
            max_words=max_words,
        )
        return [caption.ids for caption in captions]

    def part_hash(self, part: str) -> str:
        """See `ClipModel.part_hash`."""
        settings = asdict(self.sizes) | self.config.model_dump(mode="json") | {"part": part}
        return part_hash(self.get_submodule(part), settings)

    def blocks(self) -> list[nn.Module]:
        """Return the blocks of all encoders."""
        return [m for m in self.modules() if isinstance(m, (Block, SharedBlock, BertBlock))]

    def checkpointed(self) -> list[nn.Module]:
        """Return the stacks of blocks."""
        return [m for m in self.modules() if isinstance(m, (Stack, SharedBlocks, TextEncoder))]


def set_trainable(
    model: CoAVT,
    what: Literal["all", "probe"],
    modalities: Collection[Modality],
    unread: Collection[str] = (),
) -> None:
    """Set which parameters learn.

    what: all parts, or the probe alone. Stacks of other modalities than `modalities` and the
    parts `unread` by the task stay frozen, and so do positions unless `model.positions` is tuned.
    """
    frozen = {*unread, *({"audio", "vision"} - set(modalities))}
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0]
        parameter.requires_grad_(part == "probe" or (what == "all" and part not in frozen))
    if model.config.positions == "fixed":
        for stack in (model.audio, model.vision):
            stack.positions.requires_grad_(False)

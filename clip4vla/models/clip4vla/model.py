"""CLIP4VLA: CLIP's text and vision towers, the audio tower, and the head of a task."""

import math
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Literal

import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Decoding, Freeze, Modality
from clip4vla.loading.processor import Processor
from clip4vla.loading.segments import standardise
from clip4vla.models.clip4vla.architecture import Architecture
from clip4vla.models.clip4vla.bert import BertJointEncoder
from clip4vla.models.clip4vla.caption import CaptionGenerator, VocabularyHead
from clip4vla.models.clip4vla.decoding import decode
from clip4vla.models.clip4vla.fusion import Fusion
from clip4vla.models.clip4vla.gate import Gate
from clip4vla.models.clip4vla.joint import JointEncoder
from clip4vla.models.clip4vla.processor import LogMelProcessor
from clip4vla.models.clip4vla.settings import GateKind, JointStyle, TypeToken
from clip4vla.models.clip4vla.towers import AudioTower, TextTower, VisionTower
from clip4vla.models.common.activations import ACTIVATIONS
from clip4vla.models.common.bert_block import BertBlock
from clip4vla.models.common.clip_model import ClipModel, Compare
from clip4vla.models.common.encoded import Encoded, FeatureSequence
from clip4vla.models.common.parts import freeze_prefixes, part_hash
from clip4vla.models.common.probe import Probe
from clip4vla.models.common.similarity import similarities
from clip4vla.models.common.task import Batch
from clip4vla.models.common.valid import scatter, valid_positions

MAX_LOGIT_SCALE = math.log(100.0)  # initial value and upper limit, as in OpenAI's training
BLOCK = re.compile(r"(?:text|vision)\.transformer\.resblocks\.(\d+)\.")
LAST_OF_CLIP = ("text.ln_final.", "text.text_projection", "vision.proj")  # after the last block


class CLIP4VLA(ClipModel):
    """Three towers that map words, frames and sounds into one space (paper, Method; facts 3, 4).

    The features of the towers are not normalised (see `pooling` and `similarity`). `captioner`,
    `fusion`, `gate` and `probe` are None unless the task adds them. `logit_scale` is CLIP's own:
    losses use it where the temperature is learnable; otherwise the scale is a constant (D9), and
    `logit_scale` stays frozen, so that CLIP's files can be loaded completely.
    """

    captioner: CaptionGenerator | None
    fusion: Fusion | None
    gate: Gate | None
    probe: Probe | None

    def __init__(
        self,
        sizes: Architecture,
        type_token: TypeToken = "single",
        audio_init: Literal["vision", "scratch"] = "vision",
    ):
        super().__init__()
        self.sizes = sizes
        self.audio_init = audio_init
        self.half_weights = False  # see `clip4vla.models.clip4vla.fp16_weights`
        self.text = TextTower(sizes)
        self.vision = VisionTower(sizes)
        self.audio = AudioTower(sizes, type_token)
        self.logit_scale = nn.Parameter(torch.tensor(MAX_LOGIT_SCALE), requires_grad=False)
        self.register_module("captioner", None)
        self.register_module("fusion", None)
        self.register_module("gate", None)
        self.register_module("probe", None)

    def add_captioner(
        self, layers: int, max_words: int, max_frames: int, joint: JointStyle = "clip"
    ) -> None:
        """Attach a caption generator with `layers` joint layers (facts 8.1)."""
        head = VocabularyHead(self.sizes.embed_dim, self.text.token_embedding)
        self.captioner = CaptionGenerator(self._joint(layers, joint), head, max_words, max_frames)

    def add_fusion(
        self, layers: int, max_words: int, max_frames: int, joint: JointStyle = "clip"
    ) -> None:
        """Attach a joint encoder for retrieval with `layers` layers (facts 7.1-7.3)."""
        encoder = self._joint(layers, joint)
        self.fusion = Fusion(encoder, self.sizes.embed_dim, max_words, max_frames)

    def add_gate(self, kind: GateKind) -> None:
        """Attach a gate between vision and audio (facts 7.1)."""
        self.gate = Gate(kind, self.sizes.embed_dim)

    def _joint(self, layers: int, style: JointStyle) -> JointEncoder:
        if style == "bert":
            return BertJointEncoder(self.sizes.embed_dim, self.sizes.text_heads, layers)
        if self.sizes.embed_dim != self.sizes.text_width:
            raise UserError(
                "model.architecture: the joint encoder is initialised from the text tower, so the "
                f"width of that ({self.sizes.text_width}) must equal embed_dim "
                f"({self.sizes.embed_dim}). Fix: choose one like ViT-B-32"
            )
        activation = ACTIVATIONS[self.sizes.activation]  # its blocks are copied from the text tower
        return JointEncoder(
            dim=self.sizes.embed_dim,
            heads=self.sizes.text_heads,
            layers=layers,
            positions=self.sizes.context_length,
            activation=activation,
        )

    def add_probe(self, n_classes: int) -> None:
        """Attach a linear probe (facts 9)."""
        self.probe = Probe(self.sizes.embed_dim, n_classes)

    def copy_from_clip(self, part: str) -> None:
        """Initialise `audio`, `captioner` or `fusion` from CLIP's towers in their present state.

        The audio tower copies the vision tower (unless `audio_init` is scratch), a joint encoder
        copies the text tower's first blocks (unless it is BERT-style). Other parts stay unchanged.
        """
        if part == "audio" and self.audio_init == "vision":
            self.audio.copy_from(self.vision)
        elif part in ("captioner", "fusion") and getattr(self, part) is not None:
            getattr(self, part).joint.copy_from(self.text)

    def encode_text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of every token [B, L, D] and of the end token [B, D] of ids [B, L].

        See `TextTower.forward`.
        """
        words, end = self.text(tokens)
        return self._as_float32(words), self._as_float32(end)

    def encode_vision(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Return frame features [B, F, D]; masked frames are not encoded and have zeros.

        frames: [B, F, 3, 224, 224], uint8 RGB or floats already normalised as CLIP's input;
        frame_mask: bool [B, F].
        """
        index = valid_positions(frame_mask)
        features = self._as_float32(self.vision(frames.flatten(0, 1)[index]))
        return scatter(features, index, frame_mask)

    def encode_audio(self, audio: Tensor, audio_mask: Tensor, nonverbal_share: Tensor) -> Tensor:
        """Return segment features [B, S, D]; masked segments are not encoded and have zeros.

        audio: [B, S, C, 224, 224], where C = 1 means three equal channels, float16 log-mels or
        floats already standardised; audio_mask: bool [B, S]; nonverbal_share: [B], one type token
        per clip for all its segments.
        """
        index = valid_positions(audio_mask)
        images = audio.flatten(0, 1)[index]
        if images.dtype is torch.float16:
            images = standardise(images.float())
        share = nonverbal_share[:, None].expand(audio_mask.shape).flatten()[index]
        features = self._as_float32(self.audio(images, share))
        return scatter(features, index, audio_mask)

    def encode_clips(self, batch: Batch, modalities: Iterable[Modality]) -> Encoded:
        """Return the features of frames (`vision`) and segments (`audio`) of a batch's clips.

        Features that are already in the batch (`clip4vla.inference.feature_cache`) are returned
        unchanged, whatever `modalities` is.
        """
        masks = {"vision": batch["frame_mask"], "audio": batch["audio_mask"]}
        features = batch.get("features")
        if features is None:
            features = {}
            if "vision" in modalities:
                features["vision"] = self.encode_vision(batch["frames"], batch["frame_mask"])
            if "audio" in modalities:
                features["audio"] = self.encode_audio(
                    batch["audio"], batch["audio_mask"], batch["nonverbal_share"]
                )
        return {name: FeatureSequence(x, masks[name]) for name, x in features.items()}

    @property
    def processor(self) -> Processor:
        """See `ClipModel.processor`."""
        return LogMelProcessor()

    @property
    def dim(self) -> int:
        """See `ClipModel.dim`: 512 for ViT-B/32."""
        return self.sizes.embed_dim

    @property
    def compare(self) -> Compare:
        """See `ClipModel.compare`: the gate, if the model has one."""
        return self.gate or similarities

    def write_captions(self, clips: Encoded, decoding: Decoding, max_words: int) -> list[list[int]]:
        """See `ClipModel.write_captions`."""
        captions = decode(self, clips, decoding=decoding, max_words=max_words)
        return [caption.ids for caption in captions]

    def part_hash(self, part: str) -> str:
        """See `ClipModel.part_hash`."""
        settings = asdict(self.sizes) | {
            "type_token": getattr(self.get_submodule(part), "type_token", None)
        }
        return part_hash(self.get_submodule(part), settings | {"part": part})

    def blocks(self) -> list[nn.Module]:
        """Return the blocks of towers and of the joint encoder."""
        return [m for m in self.modules() if isinstance(m, (ResidualAttentionBlock, BertBlock))]

    def checkpointed(self) -> list[nn.Module]:
        """Return the stacks of blocks."""
        return [m for m in self.modules() if isinstance(m, (Transformer, BertJointEncoder))]

    def _as_float32(self, features: Tensor) -> Tensor:
        """Return features of fp16 towers in float32, as the released code does."""
        return features.float() if self.half_weights else features


def set_trainable(
    model: CLIP4VLA,
    what: Literal["audio", "all", "head"],
    freeze: Freeze | None = None,
    temperature: Literal["fixed", "learnable"] = "fixed",
) -> None:
    """Set which parameters learn (facts 3.4, 9.1).

    what: audio: stage 1, CLIP is frozen; all: every tower; head: all towers are frozen, as for a
    probe. A head (captioner, fusion, gate, probe) always learns; its tied word embedding belongs to
    the text tower. CLIP's logit_scale learns where the temperature is learnable. The parameters
    that `freeze` names are then frozen; UserError when it matches none.

    Frozen towers need no `no_grad`: autograd keeps no graph where neither input nor parameters
    learn, and begins it at the first block that does.
    """
    learns = dict.fromkeys(("text", "vision"), what == "all") | {"audio": what != "head"}
    learns["logit_scale"] = temperature == "learnable"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learns.get(name.split(".", 1)[0], True))
    if freeze is not None:
        if freeze.layer_num is not None:
            _freeze_layers(model, freeze.layer_num)
        freeze_prefixes(model, freeze.prefixes)


def _freeze_layers(model: CLIP4VLA, layer_num: int) -> None:
    named = dict(model.named_parameters())
    blocks = {name: int(block[1]) for name in named if (block := BLOCK.match(name))}
    depth = 1 + max(blocks.values())
    if layer_num > depth:
        raise UserError(
            f"freeze.layer_num: {layer_num}, but CLIP's towers have {depth} blocks. Fix: lower it, "
            "or freeze all of CLIP with freeze.prefixes: [text, vision]"
        )
    clip = {name for name in named if name.startswith(("text.", "vision."))}
    late = {name for name, index in blocks.items() if index >= layer_num}
    for name in clip - late:
        if not name.startswith(LAST_OF_CLIP):
            named[name].requires_grad_(False)

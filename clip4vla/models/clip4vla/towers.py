"""The three towers: open_clip's text and vision transformers, and the audio tower."""

import torch
from open_clip.transformer import LayerNorm, TextTransformer, VisionTransformer
from torch import Tensor, nn

from clip4vla.config.data import IMAGE_SIZE
from clip4vla.loading.tokens import END, VOCABULARY
from clip4vla.models.clip4vla.architecture import Architecture
from clip4vla.models.clip4vla.settings import TypeToken
from clip4vla.models.common.activations import ACTIVATIONS
from clip4vla.models.common.attention import without_copies
from clip4vla.models.common.images import PatchProjection, pixels


class TextTower(TextTransformer):
    """CLIP's causal text transformer with projected features of every token (facts 4.2)."""

    def __init__(self, sizes: Architecture):
        super().__init__(
            context_length=sizes.context_length,
            vocab_size=VOCABULARY,
            width=sizes.text_width,
            heads=sizes.text_heads,
            layers=sizes.text_layers,
            output_dim=sizes.embed_dim,
            act_layer=ACTIVATIONS[sizes.activation],
            norm_layer=LayerNorm,
        )
        without_copies(self.transformer)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of every token [B, L, D] and of the end token [B, D].

        tokens: int64 [B, L], L at most the context length. Neither result is normalised. The end
        token is found by its id, not by argmax, because the pad id is larger. A row without one
        (the input of captioning) has zeros in the second result.
        """
        length = tokens.shape[1]
        x, _ = self._embeds(tokens)  # [B, L, width]
        x = self.transformer(x, attn_mask=self.attn_mask[:length, :length])
        x = self.ln_final(x) @ self.text_projection  # [B, L, D]
        is_end = tokens == END  # [B, L]
        rows = torch.arange(len(tokens), device=tokens.device)
        end = x[rows, is_end.int().argmax(dim=1)]  # [B, D]
        return x, torch.where(is_end.any(dim=1, keepdim=True), end, torch.zeros_like(end))


class ImageTower(VisionTransformer):
    """CLIP's ViT, the base of the towers of images and of spectrograms (facts 4.1)."""

    def __init__(self, sizes: Architecture):
        super().__init__(
            image_size=IMAGE_SIZE,
            patch_size=sizes.patch_size,
            width=sizes.vision_width,
            layers=sizes.vision_layers,
            heads=sizes.vision_heads,
            mlp_ratio=4.0,
            output_dim=sizes.embed_dim,
            act_layer=ACTIVATIONS[sizes.activation],
            norm_layer=LayerNorm,
        )
        without_copies(self.transformer)
        self.conv1.__class__ = PatchProjection  # the same weights; a new layer would draw others


class VisionTower(ImageTower):
    """CLIP's ViT on images: the projected feature of the class token (facts 4.1)."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the unnormalised features [N, D] of images [N, 3, 224, 224]; see `pixels`."""
        return super().forward(pixels(images).to(self.conv1.weight.dtype))


class AudioTower(ImageTower):
    """A ViT that reads log-mel segments and carries an audio type token (facts 3).

    The sequence is [class, patches, type]. `type_token` is the kind of its last part:
    none: no token (50 tokens for ViT-B/32); single: one token mixed from [VB] and [NB] (51);
    both: [VB] and [NB] (52), with the last positional row for both (facts 3.2); background:
    one token for all clips (51), as early released files have.
    Row 0 of `control_embedding` is [VB] (verbal), row 1 is [NB] (nonverbal).
    """

    positional_embedding: nn.Parameter

    def __init__(self, sizes: Architecture, type_token: TypeToken):
        super().__init__(sizes)
        self.type_token = type_token
        if type_token != "none":
            width = sizes.vision_width
            positions = torch.cat([self.positional_embedding.data, torch.zeros(1, width)])
            self.positional_embedding = nn.Parameter(positions)  # [grid + 2, width]
            if type_token == "background":
                self.background_embedding = nn.Parameter(torch.zeros(width))
            else:
                self.control_embedding = nn.Parameter(torch.zeros(2, width))

    def _embeds(self, x: Tensor, nonverbal_share: Tensor) -> Tensor:
        """Return the input of the first block [N, 50..52, width] of `forward`'s arguments."""
        x = self.conv1(x.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # [N, grid, width]
        parts = [self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x]
        positions: Tensor = self.positional_embedding
        if self.type_token == "single":
            share = nonverbal_share.to(self.control_embedding.dtype)[:, None, None]  # [N, 1, 1]
            verbal, nonverbal = self.control_embedding
            parts.append(((1 - share) * verbal + share * nonverbal).to(x.dtype))
        elif self.type_token == "both":
            parts.append(self.control_embedding.to(x.dtype).expand(len(x), -1, -1))
            positions = torch.cat([positions, positions[-1:]])
        elif self.type_token == "background":
            parts.append(self.background_embedding.to(x.dtype).expand(len(x), 1, -1))
        x = torch.cat(parts, dim=1) + positions.to(x.dtype)
        return self.ln_pre(x)

    def forward(self, segments: Tensor, nonverbal_share: Tensor) -> Tensor:
        """Return the feature of each segment [N, D], not normalised.

        segments: [N, 1 or 3, 224, 224], standardised log-mel, where one channel stands for three
        equal ones; nonverbal_share: [N] in 0..1, the share of [NB] in the type token (read by
        `single` only).
        """
        x = self.transformer(self._embeds(segments, nonverbal_share))  # [N, tokens, width]
        return self.ln_post(x[:, 0]) @ self.proj

    @torch.no_grad()
    def copy_from(self, vision: VisionTower) -> None:
        """Copy every tensor of the vision tower; the type token keeps its initial position."""
        state = self.state_dict()
        for name, value in vision.state_dict().items():
            state[name][: len(value)].copy_(value)

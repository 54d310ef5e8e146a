"""The joint audio-visual encoder: a stack of blocks for each modality, then shared ones.

See facts 1.1 to 1.3 and 8.1: the sizes are second hand, the computation is that of CAV-MAE.
"""

from collections.abc import Collection
from typing import Literal

import torch
from open_clip.transformer import LayerNorm
from torch import Tensor, nn

from clip4vla.config.sections import Activation, Modality
from clip4vla.models.coavt.blocks import STREAMS, Block, SharedBlock, Stream, norms, through
from clip4vla.models.coavt.positions import grid_positions
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.common.encoded import Encoded, FeatureSequence
from clip4vla.models.common.images import ImageStatistics, PatchProjection, pixels
from clip4vla.models.common.valid import scatter, valid_positions

Missing = Literal["average", "stream"]
OWN: tuple[Modality, ...] = ("audio", "vision")  # the order of tokens in the joint stream


class Stack(nn.Module):
    """Patches, positions, a modality vector, and the blocks of one modality.

    input_norm: a LayerNorm before the first block, as in CLIP.
    """

    def __init__(
        self,
        sizes: Sizes,
        channels: int,
        grid: tuple[int, int],
        activation: Activation,
        input_norm: bool,
    ):
        super().__init__()
        self.grad_checkpointing = False  # as open_clip's Transformer calls it
        self.patches = PatchProjection(channels, sizes.width, sizes.patch, stride=sizes.patch)
        self.positions = nn.Parameter(grid_positions(sizes.width, *grid))  # [n, W]
        self.modality = nn.Parameter(torch.zeros(sizes.width))
        self.input_norm = LayerNorm(sizes.width) if input_norm else None
        self.blocks = nn.ModuleList(Block(sizes, activation) for _ in range(sizes.own_layers))

    def embed(self, images: Tensor) -> Tensor:
        """Return the input of the first block: [N, C, H, W] to [N, n, W], patches row by row."""
        x = self.patches(images.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        x = x + (self.positions + self.modality).to(x.dtype)
        return x if self.input_norm is None else self.input_norm(x)

    def encode(self, images: Tensor, mask: Tensor) -> FeatureSequence:
        """Return the tokens of the valid images of clips, one image after the other.

        images: [B, S, C, H, W]; mask: bool [B, S]. Returns [B, S * n, W]. Masked images are not
        encoded and have zeros.
        """
        index = valid_positions(mask)
        x = self.embed(images.flatten(0, 1)[index])
        x = through(self.blocks, x, recompute=self.grad_checkpointing)
        valid = mask.repeat_interleave(x.shape[1], dim=1)
        return FeatureSequence(scatter(x, index, mask).flatten(1, 2), valid)


class AudioStack(Stack):
    """The stack of log-mels, whose rows are mel bands and whose columns are steps."""

    def __init__(self, sizes: Sizes, activation: Activation, input_norm: bool):
        super().__init__(
            sizes,
            channels=1,
            grid=sizes.audio_grid,
            activation=activation,
            input_norm=input_norm,
        )

    def forward(self, audio: Tensor, audio_mask: Tensor) -> FeatureSequence:
        """Return the tokens of segments [B, S, 1, steps, bands]; see `encode`."""
        return self.encode(audio.transpose(-1, -2), audio_mask)


class VisualStack(Stack):
    """The stack of pictures. statistics: normalise their bytes."""

    def __init__(
        self, sizes: Sizes, activation: Activation, input_norm: bool, statistics: ImageStatistics
    ):
        super().__init__(
            sizes,
            channels=3,
            grid=sizes.image_grid,
            activation=activation,
            input_norm=input_norm,
        )
        self.statistics = statistics

    def embed(self, images: Tensor) -> Tensor:
        """See `Stack.embed`; floats are taken as normalised."""
        return super().embed(pixels(images, self.statistics))

    def forward(self, frames: Tensor, frame_mask: Tensor) -> FeatureSequence:
        """Return the tokens of frames [B, F, 3, H, W]; see `encode`."""
        return self.encode(frames, frame_mask)


class SharedBlocks(nn.Module):
    """Blocks that run on the tokens of sound, of pictures and of both: E_A, E_V and E_AV.

    missing: the tokens in place of E_AV for a clip that has one modality alone. stream: those of
    this modality's stream; average: their mean with the tokens of the joint stream, as CAV-MAE
    (facts 4.2).
    """

    def __init__(self, sizes: Sizes, activation: Activation, missing: Missing):
        super().__init__()
        self.grad_checkpointing = False
        self.missing = missing
        self.blocks = nn.ModuleList(
            SharedBlock(sizes, activation) for _ in range(sizes.shared_layers)
        )
        self.norm = norms(sizes.width)

    def forward(self, own: Encoded, streams: Collection[Stream] = STREAMS) -> Encoded:
        """Return the streams of encoded clips by name, of those that are asked for.

        own: the tokens of the stacks, `audio` and `vision` or one of them. `av` needs both: it has
        the tokens of sound, then those of pictures.
        """
        found: Encoded = {
            name: self.stream(own[name], name) for name in OWN if name in own and name in streams
        }
        if "av" in streams and len(own) == len(OWN):
            found["av"] = self._joint(own, found)
        return found

    def _joint(self, own: Encoded, found: Encoded) -> FeatureSequence:
        """Return E_AV. found: streams of one modality that are already computed."""
        features, mask = zip(*(own[name] for name in OWN), strict=True)
        joint = self.stream(FeatureSequence(torch.cat(features, 1), torch.cat(mask, 1)), "av")
        audio, vision = (x.any(dim=1) for x in mask)
        lonely = audio ^ vision  # [B], with one modality alone
        # In training every batch needs the norms of all streams: see `valid_positions`.
        if not (torch.is_grad_enabled() or lonely.any()):
            return joint
        rows = valid_positions(lonely)
        alone = torch.cat([self._rows(own, found, name, rows) for name in OWN], dim=1)
        both = joint.features[rows]
        if self.missing == "average":
            alone = (both + alone) / 2
        chosen = torch.where(lonely[rows, None, None], alone, both)
        return joint._replace(features=joint.features.index_copy(0, rows, chosen))

    def _rows(self, own: Encoded, found: Encoded, name: Modality, rows: Tensor) -> Tensor:
        """Return the stream of one modality for some clips, [len(rows), n, W]."""
        if name in found:
            return found[name].features[rows]
        return self.stream(FeatureSequence(*(x[rows] for x in own[name])), name).features

    def stream(self, tokens: FeatureSequence, name: Stream) -> FeatureSequence:
        """Return the output of all blocks [B, n, W] with the norms of a stream.

        Positions that are not valid are not attended to and have zeros; a clip without any valid
        position attends to all, which keeps its gradients finite.
        """
        x, mask = tokens
        complete = bool(mask.all())  # attention without a mask is faster
        attend = None if complete else mask | ~mask.any(dim=1, keepdim=True)
        x = through(self.blocks, x, name, attend, recompute=self.grad_checkpointing)
        x = self.norm[name](x)
        return FeatureSequence(x if complete else x.masked_fill(~mask[..., None], 0.0), mask)

"""The joint encoder in BERT's style, used for the published MSR-VTT number (facts 7.3)."""

import torch
from open_clip.transformer import LayerNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip4vla.models.clip4vla.joint import DROPOUT, JointEncoder, JointInput
from clip4vla.models.clip4vla.settings import JOINT_POSITIONS
from clip4vla.models.clip4vla.towers import TextTower
from clip4vla.models.common.bert_block import EPSILON, BertBlock
from clip4vla.models.common.blocks import Block

WIDENING = 6  # 512 to 3072


class BertJointEncoder(JointEncoder):
    """Post-LN blocks over the normalised input, and a tanh pooler for pairs.

    It is initialised randomly: N(0, 0.02). Padding is masked out; the released code adds -10000 to
    its scores instead, which is the same in float32 unless a clip has no valid position.
    """

    def __init__(self, dim: int, heads: int, layers: int, positions: int = JOINT_POSITIONS["bert"]):
        super().__init__(dim, heads, layers, positions)

    def _add_layers(self, dim: int, layers: int) -> None:
        self.grad_checkpointing = False  # as open_clip's Transformer calls it
        self.norm = LayerNorm(dim, eps=EPSILON)
        self.layers = nn.ModuleList(
            BertBlock(dim, self.heads, hidden=WIDENING * dim, dropout=DROPOUT)
            for _ in range(layers)
        )
        self.pooler = nn.Linear(dim, dim)

    def _encode(self, x: Tensor, attend: Tensor) -> Tensor:
        for block in self.layers:
            if self.grad_checkpointing:
                x = checkpoint(block, x, attend, use_reentrant=False)
            else:
                x = block(x, attend)
        return x

    def embed(self, part: JointInput, start: int) -> Tensor:
        """Return the input of the first block: the sum of `JointEncoder.embed`, normalised."""
        return self.norm(super().embed(part, start))

    def pooled(self, first: Tensor) -> Tensor:
        """Return the pooled vector of a sequence: tanh of a map of its first output [..., D]."""
        return torch.tanh(self.pooler(first))

    def blocks(self) -> list[Block]:
        """Return the layers."""
        return [layer for layer in self.layers if isinstance(layer, BertBlock)]

    def copy_from(self, text: TextTower) -> None:
        """Do nothing: no tower has blocks of this kind, so the initial weights stay random."""

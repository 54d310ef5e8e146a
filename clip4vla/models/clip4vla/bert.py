"""The joint encoder in BERT's style, used for the published MSR-VTT number (facts 7.3)."""

import torch
from open_clip.transformer import LayerNorm
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from clip4vla.models.clip4vla.joint import DROPOUT, JointEncoder, JointInput
from clip4vla.models.clip4vla.settings import JOINT_POSITIONS
from clip4vla.models.clip4vla.towers import TextTower
from clip4vla.models.common.blocks import Block, Projection, join_heads, split_heads

WIDENING = 6  # 512 to 3072
EPSILON = 1e-12


class BertBlock(nn.Module):
    """A post-LN block with the exact (erf) GELU, and dropout on attention and on both branches."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.output_norm = LayerNorm(dim, eps=EPSILON)
        self.widen = nn.Linear(dim, WIDENING * dim)
        self.narrow = nn.Linear(WIDENING * dim, dim)
        self.norm = LayerNorm(dim, eps=EPSILON)
        self.dropout = nn.Dropout(DROPOUT)

    def attention_input(self, x: Tensor) -> Tensor:
        """See `blocks.Block`."""
        return x

    def projections(self) -> tuple[Projection, Projection, Projection]:
        """See `blocks.Block`."""
        return (
            (self.query.weight, self.query.bias),
            (self.key.weight, self.key.bias),
            (self.value.weight, self.value.bias),
        )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `blocks.Block`."""
        return self.query(x), self.key(x), self.value(x)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """See `blocks.Block`."""
        x = self.output_norm(x + self.dropout(self.output(attended)))
        return self.norm(x + self.dropout(self.narrow(gelu(self.widen(x)))))

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        """Return the output [B, L, D] of x [B, L, D]; attend: bool [B, L, L], rows to columns."""
        query, key, value = (split_heads(part, self.heads) for part in self.project(x))
        dropout = self.dropout.p if self.training else 0.0
        attended = scaled_dot_product_attention(
            query, key, value, attend[:, None], dropout_p=dropout
        )
        return self.finish(x, join_heads(attended))


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
        self.layers = nn.ModuleList(BertBlock(dim, self.heads) for _ in range(layers))
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

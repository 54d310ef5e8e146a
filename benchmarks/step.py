"""How fast a step of stage-1 pre-training is against a plain fp32 implementation.

    python benchmarks/step.py [--clips 2] [--threads 1] [--device cpu|cuda] [--microbatch N]
                              [--architecture ViT-B-32]

A step is forward and backward of S(t_a) + S(a_v) + AA at ViT-B/32, CLIP frozen, random weights. The
plain side is written as the released code computes: nn.MultiheadAttention in blocks of [L, B, D], a
causal mask added to the scores, three channels in memory, and every clip with 12 frames, 10
segments and 32 words whether it fills them or not (facts 1.6, 4.1); masks act in pooling. Both have
the same weights and give the same loss.

Clips resemble the pre-training data (facts 6.1): half of them AudioSet's 10 s, half HowTo100M's,
grown to 10 s and more (here 10 to 18 s, uniformly); a frame per second, a segment per 1.792 s; all
of them mono.

On CUDA ours runs in half precision (AMP), as training does; its share of the device's peak counts
the operations that the step needs (torch.utils.flop_counter), without those of padding.
"""

import math

import bench
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from clip4vla.common.device import pick_device
from clip4vla.config.run import Pretrain, Source
from clip4vla.config.sections import Masking
from clip4vla.loading.tokenizer import tokenize
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.model import set_trainable
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.tasks import PretrainTask
from clip4vla.training.gradients import backward

FRAMES, SEGMENTS, WORDS, SEGMENT, SCALE, EOT = 12, 10, 32, 1.792, 100.0, 49407


class PlainBlock(nn.Module):
    """CLIP's block, in the names of its state dict."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x, mask):
        """x [L, B, D]; mask [L, L], added to the scores."""
        read = self.ln_1(x)
        x = x + self.attn(read, read, read, need_weights=False, attn_mask=mask)[0]
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class Plain(nn.Module):
    """One tower of the released model; the tensors that are not blocks come from ours."""

    def __init__(self, ours, heads):
        super().__init__()
        self.own = ours
        blocks = ours.transformer.resblocks
        width = blocks[0].ln_1.weight.shape[0]
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in blocks)
        for mine, theirs in zip(self.blocks, blocks, strict=True):
            mine.load_state_dict(theirs.state_dict(keep_vars=True), assign=True)  # held once

    def through(self, x, mask=None):
        """x [B, L, D] through all blocks."""
        x = x.permute(1, 0, 2)  # [L, B, D]
        for block in self.blocks:
            x = block(x, mask)
        return x.permute(1, 0, 2)

    def image(self, x, share=None):
        """Every image [N, 3, 224, 224]; share [N] adds the type token."""
        own = self.own
        x = own.conv1(x).flatten(2).permute(0, 2, 1)
        parts = [own.class_embedding.expand(len(x), 1, -1), x]
        if share is not None:
            mix = torch.stack([1 - share, share], dim=1) @ own.control_embedding
            parts.append(mix[:, None])
        x = own.ln_pre(torch.cat(parts, dim=1) + own.positional_embedding)
        return (own.ln_post(self.through(x)) @ own.proj)[:, 0]

    def text(self, tokens):
        """Features of the end tokens."""
        own, length = self.own, tokens.shape[1]
        mask = torch.full((length, length), float("-inf"), device=tokens.device).triu(1)
        x = self.through(own.token_embedding(tokens) + own.positional_embedding[:length], mask)
        x = own.ln_final(x) @ own.text_projection
        return x[torch.arange(len(x)), (tokens == EOT).int().argmax(dim=1)]


class PlainStep:
    """Loss of a batch in fixed buffers."""

    def __init__(self, model, device):
        sizes = model.sizes
        self.text = Plain(model.text, sizes.text_heads)
        self.vision = Plain(model.vision, sizes.vision_heads)
        self.audio = Plain(model.audio, sizes.vision_heads)
        for tower, theirs in ((self.text, "text"), (self.vision, "vision")):
            tower.requires_grad_(False)
            getattr(model, theirs).requires_grad_(False)
        for tower in (self.text, self.vision, self.audio):
            tower.to(device)

    def __call__(self, batch):
        """Three terms, as ours."""
        share = batch["nonverbal_share"].repeat_interleave(SEGMENTS)
        text = normalize(self.text.text(batch["tokens"]), dim=-1)
        vision = pooled(self.vision.image(batch["frames"].flatten(0, 1)), batch["frame_mask"])
        clean, masked = (
            pooled(self.audio.image(batch[name].flatten(0, 1), share), batch["audio_mask"])
            for name in ("audio", "masked_audio")
        )
        loss = both_ways(SCALE * text @ clean.T) + both_ways(SCALE * vision @ clean.T)
        itself = 1e9 * torch.eye(len(text), device=text.device)
        one = torch.cat([SCALE * clean @ masked.T, SCALE * clean @ clean.T - itself], dim=1)
        other = torch.cat([SCALE * masked @ clean.T, SCALE * masked @ masked.T - itself], dim=1)
        return loss + (nce(one) + nce(other)) / 2


def pooled(features, mask):
    features = normalize(features, dim=-1).view(*mask.shape, -1)
    weight = one_hot(mask.long(), 2)[..., 1:].float()
    return normalize((features * weight).sum(1) / weight.sum(1), dim=-1)


def nce(logits):
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def both_ways(logits):
    return (nce(logits) + nce(logits.T)) / 2


def make_batches(clips, device):
    """The same clips in fixed buffers, and as a loader of ours gives them."""
    generator = torch.Generator().manual_seed(0)
    seconds = 10 + 8 * torch.rand(clips, generator=generator)
    seconds[clips // 2 :] = 10.0  # AudioSet
    frames = [min(math.floor(s), FRAMES) for s in seconds.tolist()]
    segments = [min(math.ceil(s / SEGMENT), SEGMENTS) for s in seconds.tolist()]
    upto = lambda lengths, most: torch.arange(most) < torch.tensor(lengths)[:, None]  # noqa: E731
    masks = {"frame_mask": upto(frames, FRAMES), "audio_mask": upto(segments, SEGMENTS)}
    draw = lambda *shape: torch.randn(*shape, 224, 224, generator=generator)  # noqa: E731
    images = {"frames": draw(clips, FRAMES, 3)}
    images |= {name: draw(clips, SEGMENTS, 1) for name in ("audio", "masked_audio")}
    words = ["the sound of speech and music", "then add the onions and stir until they are soft"]
    batch = {
        "clip_id": [f"clip{i}" for i in range(clips)],
        "tokens": tokenize([words[i % 2] for i in range(clips)], WORDS),
        "nonverbal_share": torch.tensor([0.0] * (clips // 2) + [1.0] * (clips - clips // 2)),
    }
    trimmed = {name: x[:, : max(frames)] for name, x in images.items() if name == "frames"}
    trimmed |= {name: x[:, : max(segments)] for name, x in images.items() if name != "frames"}
    trimmed["frame_mask"] = masks["frame_mask"][:, : max(frames)]
    trimmed["audio_mask"] = masks["audio_mask"][:, : max(segments)]
    three = {name: x.expand(-1, -1, 3, -1, -1).contiguous() for name, x in images.items()}
    on = lambda given: {  # noqa: E731
        k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in given.items()
    }
    return on(batch | masks | three), on(batch | trimmed), sum(frames), sum(segments)


def chunks_of(batch, size):
    """The batch in chunks of `size` clips, padded as the whole."""
    count = len(batch["clip_id"])
    cuts = [slice(i, i + size) for i in range(0, count, size)]
    return [{key: value[cut] for key, value in batch.items()} for cut in cuts]


def losses(ours, plain, device):
    """State both losses, which must be the same: in half precision, which a GPU has, nearly."""
    far = abs(ours - plain) / abs(plain)
    share = bench.agreed("differ by a share of", far, 1e-4 if device == "cpu" else 1e-2)
    return f"loss {ours:.5f}, of the plain side {plain:.5f}; {share}"


def parser():
    made = bench.parser(__doc__, rounds=5, device=True)
    made.add_argument("--clips", type=int, default=2)
    made.add_argument("--architecture", default="ViT-B-32")
    made.add_argument(
        "--microbatch", type=int, help="ours by gradient caching (what is done twice counts twice)"
    )
    return made


def rows(options):
    device = pick_device(options.device)
    source = Source(dataset="none", cache_id="none", split="none")
    section = Model(architecture=options.architecture, weights=None)
    model = build_model(section, {}, seed=0).to(device)
    set_trainable(model, "audio")
    plain_step = PlainStep(model, device)
    task = PretrainTask(model, Pretrain(model=section, sources=[source], masking=Masking()))
    fixed, batch, frames, segments = make_batches(options.clips, device)
    chunks = chunks_of(batch, options.microbatch or options.clips)

    def plain():
        plain_step.audio.zero_grad(set_to_none=True)
        loss = plain_step(fixed)
        loss.backward()
        return loss.item()

    def ours():
        model.zero_grad(set_to_none=True)
        return backward(task, chunks, device, lambda loss: loss)[0].item()

    yield bench.compare(
        f"stage 1 at {options.architecture}, {options.clips} clips ({frames} of "
        f"{FRAMES * options.clips} frames, {segments} of {SEGMENTS * options.clips} segments)",
        ours,
        plain,
        against="padded, float32",
        options=options,
        note=lambda ours, plain: losses(ours.result, plain.result, options.device),
    )


if __name__ == "__main__":
    bench.main(parser(), rows)

"""How fast a step of CoAVT's pre-training is against a plain fp32 implementation.

    python benchmarks/coavt_step.py [--clips 2] [--threads 2] [--device cpu|cuda]
                                    [--microbatch N] [--architecture base]

A step is forward and backward of all objectives, at the sizes of ViT-B/16 and BERT-base and from
random weights without dropout: contrast and matching of texts with sound, with picture and with
both, and the words after both. The plain side computes as LAVIS does: attention as matrices in
memory, to which masks of the same size are added; every text with 32 tokens, whether it fills them
or not; three pairs of each clip in one batch for matching, each with keys and values of its own;
the words after the queries' cached keys and values, with logits at every position. Its
audio-visual encoder is that of coavt_encoder.py. Both sides have the same weights, draw the same
negatives and give the same loss.

On CUDA ours runs in half precision (AMP), as training does; its share of the device's peak counts
the operations that the step needs (torch.utils.flop_counter), without those of padding.
"""

import math

import bench
import torch
from coavt_encoder import Plain
from step import chunks_of, losses
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, layer_norm, normalize

from clip4vla.common.device import pick_device
from clip4vla.config.run import Pretrain, Source
from clip4vla.config.sections import Inputs, Optimiser
from clip4vla.models.coavt.losses import ContrastLogits
from clip4vla.models.coavt.negatives import dice_of, draw_negatives
from clip4vla.models.coavt.objective import Objective
from clip4vla.models.coavt.settings import Model
from clip4vla.models.coavt.sizes import sizes_of
from clip4vla.models.common.batch_features import numbers_of
from clip4vla.models.family import family_of
from clip4vla.training.gradients import backward

WORDS, SMOOTHING, PAD, HIDDEN = 32, 0.1, -100, -1e4
TEXTS = [
    "a man speaks while a dog barks in the distance",
    "rain falls on a roof",
    "a car engine starts and idles, then a door is closed and two people talk",
    "birds sing",
]


class PlainStep(Plain):
    """The loss of a batch, with the same parameters."""

    def __init__(self, model, sizes):
        super().__init__(model, sizes)
        self.ids = model.text_ids

    def post_norm(self, name: str, x: Tensor) -> Tensor:
        """Apply a LayerNorm of BERT."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(x, x.shape[-1:], weight, bias, 1e-12)

    def heads(self, name: str, x: Tensor) -> Tensor:
        """Project x [B, n, W] to [B, heads, n, W / heads]."""
        return self.affine(name, x).unflatten(-1, (self.sizes.query_heads, -1)).transpose(1, 2)

    def attend(self, name: str, x: Tensor, source: Tensor, mask: Tensor, before=None):
        """x attends to source; mask: [B, heads, n, S], added. before: cached keys and values."""
        keys, values = self.heads(f"{name}.key", source), self.heads(f"{name}.value", source)
        own = keys, values
        if before is not None:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(before, own, strict=True))
        query = self.heads(f"{name}.query", x)
        scores = query @ keys.transpose(-2, -1) / math.sqrt(query.shape[-1]) + mask
        mixed = (scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
        return self.post_norm(f"{name}.output_norm", x + self.affine(f"{name}.output", mixed)), own

    def feed(self, name: str, x: Tensor) -> Tensor:
        """The feed-forward of words, or (`name.query_feed`) of queries."""
        hidden = gelu(self.affine(f"{name}.widen", x))
        return self.post_norm(f"{name}.norm", x + self.affine(f"{name}.narrow", hidden))

    def layers(self, x, queries, mask, clip=None, clip_mask=None, before=None):
        """All layers on x [B, n, W], whose first rows are queries; and their keys and values."""
        cached = []
        for layer in range(self.sizes.query_layers):
            name = f"query.layers.{layer}"
            x, own = self.attend(name, x, x, mask, before and before[layer])
            cached.append(own)
            asking, words = x[:, :queries], x[:, queries:]
            if queries and layer % self.sizes.cross_every == 0:
                asking, _ = self.attend(f"{name}.cross", asking, clip, clip_mask)
            parts = [self.feed(f"{name}.query_feed", asking)] if queries else []
            parts += [self.feed(name, words)] if words.shape[1] else []
            x = torch.cat(parts, dim=1)
        return x, cached

    def words(self, tokens: Tensor) -> Tensor:
        """Embed tokens [B, L]."""
        x = self.weights["query.words.weight"][tokens]
        return self.post_norm("query.norm", x + self.weights["query.positions.weight"][:WORDS])

    def queries(self, count: int) -> Tensor:
        """Embed the queries of so many clips."""
        return self.post_norm("query.norm", self.weights["query.queries"]).expand(count, -1, -1)

    def matched(self, tokens: Tensor, clip: Tensor, seen: Tensor) -> Tensor:
        """Matching logits [B, 2] of texts with clips."""
        queries = self.queries(len(tokens))
        count = queries.shape[1]
        valid = torch.cat([seen.new_ones(queries.shape[:2]), self.ids.valid(tokens)], dim=1)
        x = torch.cat([queries, self.words(tokens)], dim=1)
        x, _ = self.layers(x, count, self.mask(valid, x.shape[1]), clip, self.mask(seen, count))
        return self.affine("matching", x[:, :count]).mean(dim=1)

    def language(self, tokens: Tensor, cached) -> Tensor:
        """Cross-entropy of words after the queries' keys and values."""
        valid, count = self.ids.valid(tokens), cached[0][0].shape[2]
        read = tokens.clone()
        read[:, 0] = self.ids.decode
        causal = torch.ones(WORDS, WORDS, dtype=torch.bool, device=tokens.device).tril()
        causal = torch.cat([causal.new_ones(WORDS, count), causal], dim=1)
        padding = torch.cat([valid.new_ones(len(valid), count), valid], dim=1)
        mask = self.mask(padding, WORDS) + hidden(causal)[None, None]
        x, _ = self.layers(self.words(read), 0, mask, before=cached)
        x = self.post_norm("language.norm", gelu(self.affine("language.dense", x)))
        logits = x @ self.weights["query.words.weight"].T + self.weights["language.bias"]
        following = read.masked_fill(~valid, PAD)[:, 1:]
        return cross_entropy(
            logits[:, :-1].flatten(0, 1),
            following.flatten(),
            ignore_index=PAD,
            label_smoothing=SMOOTHING,
        )

    def __call__(self, batch) -> Tensor:
        """The sum of all terms."""
        tokens, loss = batch["tokens"], 0.0
        clips = numbers_of(batch["clip_id"]).to(tokens.device)
        pairs = zip(batch["clip_id"], tokens.tolist(), strict=True)
        samples = [f"0 {clip} {ids}" for clip, ids in pairs]
        order = numbers_of(samples).to(tokens.device)
        mask = self.mask(self.ids.valid(tokens), WORDS)
        states, _ = self.layers(self.words(tokens), 0, mask)
        text = normalize(self.affine("text_proj", states[:, 0]), dim=-1)
        streams = super().__call__(batch)
        norm = [self.weights[f"query.encoder_norm.{end}"] for end in ("weight", "bias")]
        target = torch.arange(len(tokens), device=tokens.device)
        for name, stream in (("av", "av"), ("a", "audio"), ("v", "vision")):
            clip, seen = streams[stream]
            clip = layer_norm(clip, clip.shape[-1:], *norm)
            asking = self.queries(len(clip))
            count = asking.shape[1]
            free = self.mask(seen.new_ones(len(clip), count), count)
            states, cached = self.layers(asking, count, free, clip, self.mask(seen, count))
            found = normalize(self.affine("query_proj", states), dim=-1)
            logits = torch.einsum("nqd,td->ntq", found, text).amax(dim=2)
            logits = logits / self.weights["temperature"]
            both = ContrastLogits(logits, logits.T)
            loss = loss + sum(cross_entropy(x, target, label_smoothing=SMOOTHING) for x in both) / 2
            dice = dice_of(samples, name, 0).to(tokens.device)
            drawn = draw_negatives(both, clips, order, dice)
            chosen = torch.cat([target, drawn.clip_of_text, target])
            texts = torch.cat([tokens, tokens, tokens[drawn.text_of_clip]])
            answers = (torch.arange(len(texts), device=tokens.device) < len(tokens)).long()
            loss = loss + cross_entropy(self.matched(texts, clip[chosen], seen[chosen]), answers)
            if name == "av":
                loss = loss + self.language(tokens, cached)
        return loss

    def mask(self, valid: Tensor, count: int) -> Tensor:
        """The mask [B, heads, count, S] of valid columns [B, S], to be added."""
        return hidden(valid)[:, None, None].repeat(1, self.sizes.query_heads, count, 1)


def hidden(allowed: Tensor) -> Tensor:
    """What is added to scores: 0 where allowed."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, HIDDEN)


def make_batch(clips: int, model, sizes, device):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(device)  # noqa: E731
    everywhere = torch.ones(clips, 1, dtype=torch.bool, device=device)
    texts = [TEXTS[i % len(TEXTS)] for i in range(clips)]
    return {
        "clip_id": [f"clip{i}" for i in range(clips)],
        "tokens": model.processor.tokenize(texts, WORDS).to(device),
        "audio": draw(clips, 1, 1, sizes.steps, sizes.bands),
        "frames": draw(clips, 1, 3, sizes.image, sizes.image),
        **dict.fromkeys(("audio_mask", "frame_mask"), everywhere),
    }


def parser():
    made = bench.parser(__doc__, rounds=2, device=True)
    made.set_defaults(threads=2)
    made.add_argument("--clips", type=int, default=2)
    made.add_argument("--architecture", default="base")
    made.add_argument(
        "--microbatch", type=int, help="ours by gradient caching (what is done twice counts twice)"
    )
    return made


def rows(options):
    device, family = pick_device(options.device), family_of("coavt")
    sizes = sizes_of(options.architecture, vocabulary=1)
    section = Model(architecture=options.architecture, dropout=0.0)
    inputs = Inputs(max_frames=1, max_segments=1, segment_steps=sizes.steps, max_words=WORDS)
    model = family.build(section, {}, inputs=inputs).to(device).train()
    run = Pretrain(
        model=section,
        inputs=inputs,
        trainable="all",
        sources=[Source(dataset="none", cache_id="none", split="none")],
        objective=Objective(),
        optimiser=Optimiser(batch_size=options.clips, microbatch=options.microbatch),
    )
    family.prepare(model, run)
    task, plain_step = family.task(model, run), PlainStep(model, sizes)
    batch = make_batch(options.clips, model, sizes, device)
    chunks = chunks_of(batch, options.microbatch or options.clips)

    def plain():
        model.zero_grad(set_to_none=True)
        loss = plain_step(batch)
        loss.backward()
        return loss.item()

    def ours():
        model.zero_grad(set_to_none=True)
        return backward(task, chunks, device, lambda loss: loss)[0].item()

    launched = bench.launches(ours, options.device)
    yield bench.compare(
        f"a step of CoAVT, {options.architecture}, {options.clips} clips",
        ours,
        plain,
        against="masks as matrices, padded, float32",
        options=options,
        note=lambda ours, plain: f"{losses(ours.result, plain.result, options.device)}; {launched}",
    )


if __name__ == "__main__":
    bench.main(parser(), rows)

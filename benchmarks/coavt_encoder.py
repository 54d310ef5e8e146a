"""How fast a step of CoAVT's joint audio-visual encoder is against a plain fp32 implementation.

    python benchmarks/coavt_encoder.py [--clips 4] [--silent 1] [--frames 1] [--threads 1]
                                       [--device cpu|cuda] [--checkpointing]
                                       [--architecture base]

A step is forward and backward of E_A, E_V and E_AV at ViT-B/16: 512 tokens of 10 s of sound, 196 of
each picture, random weights; the loss is a function of the means of the three streams. The plain
side computes attention as matrices in memory, to which masks of the same size are added; it encodes
every clip with sound and all frames, whether it has them or not, and computes what stands in for
the joint stream of a clip without sound for all clips. Both have the same weights and give the same
loss. `--silent` clips have no sound.

On CUDA ours runs in half precision (AMP), as training does; its share of the device's peak counts
the operations that the step needs (torch.utils.flop_counter), without those of padding.
"""

import math

import bench
import torch
from step import losses
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from clip4vla.common.device import half_type, pick_device
from clip4vla.models.coavt.encoder import AudioStack, SharedBlocks, VisualStack
from clip4vla.models.coavt.initialise_encoder import initialise_encoder
from clip4vla.models.coavt.sizes import Sizes, sizes_of
from clip4vla.models.common.images import IMAGE_STATISTICS
from clip4vla.models.common.pooling import masked_mean


class Encoder(nn.Module):
    """Ours."""

    def __init__(self, sizes):
        super().__init__()
        settings = {"activation": "gelu", "input_norm": False}
        self.audio = AudioStack(sizes, **settings)
        self.vision = VisualStack(sizes, **settings, statistics=IMAGE_STATISTICS["imagenet"])
        self.shared = SharedBlocks(sizes, activation="gelu", missing="average")
        initialise_encoder(dict(self.named_children()), seed=0)

    def forward(self, clips):
        """Return streams by name: tokens [B, n, W] and their masks."""
        return self.shared(
            {
                "audio": self.audio(clips["audio"], clips["audio_mask"]),
                "vision": self.vision(clips["frames"], clips["frame_mask"]),
            }
        )


class Plain:
    """The same with the same parameters."""

    def __init__(self, model: nn.Module, sizes: Sizes):
        self.sizes = sizes
        self.weights = dict(model.named_parameters())

    def affine(self, name: str, x: Tensor) -> Tensor:
        """Apply a Linear."""
        return linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Apply a LayerNorm."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(x, x.shape[-1:], weight, bias)

    def block(self, name: str, x: Tensor, mask: Tensor, norm: str = "") -> Tensor:
        """x [B, n, W]; mask [B, heads, n, n], added to the scores; norm: suffix of a stream."""
        count, length, width = x.shape
        joint = self.affine(f"{name}.attn.qkv", self.norm(f"{name}.norm1{norm}", x))
        joint = joint.view(count, length, 3, self.sizes.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = joint
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.sizes.heads) + mask
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(count, length, width)
        x = x + self.affine(f"{name}.attn.proj", mixed)
        hidden = gelu(self.affine(f"{name}.mlp.fc1", self.norm(f"{name}.norm2{norm}", x)))
        return x + self.affine(f"{name}.mlp.fc2", hidden)

    def stack(self, name: str, images: Tensor) -> Tensor:
        """images [N, C, H, W]."""
        weight, bias = (self.weights[f"{name}.patches.{end}"] for end in ("weight", "bias"))
        x = conv2d(images, weight, bias, stride=self.sizes.patch).flatten(2).transpose(1, 2)
        x = x + self.weights[f"{name}.positions"] + self.weights[f"{name}.modality"]
        mask = self.matrix(torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
        for layer in range(self.sizes.own_layers):
            x = self.block(f"{name}.blocks.{layer}", x, mask)
        return x

    def stream(self, x: Tensor, valid: Tensor, name: str) -> Tensor:
        """x [B, n, W]; valid: bool [B, n]."""
        mask = self.matrix(valid)
        for layer in range(self.sizes.shared_layers):
            x = self.block(f"shared.blocks.{layer}", x, mask, f".{name}")
        return self.norm(f"shared.norm.{name}", x)

    def __call__(self, clips):
        """See `Encoder.forward`."""
        frames = clips["frames"]
        audio = self.stack("audio", clips["audio"][:, 0].transpose(-1, -2))
        vision = self.stack("vision", frames.flatten(0, 1)).view(len(frames), -1, self.sizes.width)
        heard = clips["audio_mask"].expand(-1, audio.shape[1])
        seen = clips["frame_mask"].repeat_interleave(vision.shape[1] // frames.shape[1], dim=1)
        both, valid = torch.cat([audio, vision], dim=1), torch.cat([heard, seen], dim=1)
        e_a, e_v = self.stream(audio, heard, "audio"), self.stream(vision, seen, "vision")
        e_av = self.stream(both, valid, "av")
        alone = (heard.any(1) ^ seen.any(1)).float()[:, None, None]
        e_av = (1 - alone) * e_av + alone * (e_av + torch.cat([e_a, e_v], dim=1)) / 2
        return {"audio": (e_a, heard), "vision": (e_v, seen), "av": (e_av, valid)}

    def matrix(self, valid: Tensor) -> Tensor:
        """Return the mask of attention [B, heads, n, n], to be added."""
        hidden = torch.zeros(valid.shape, device=valid.device).masked_fill_(~valid, -1e4)
        return hidden[:, None, None].repeat(1, self.sizes.heads, valid.shape[1], 1)


def loss_of(streams) -> Tensor:
    means = [masked_mean(tokens, mask) for tokens, mask in streams.values()]
    return torch.stack([mean.sin().mean() for mean in means]).sum()


def kept_by(side, model: nn.Module) -> int:
    """Return the bytes of activations that a forward pass keeps for the backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        side()
    return sum(kept.values())


def make_clips(options, sizes, device):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(device)  # noqa: E731
    heard = torch.arange(options.clips) >= options.silent
    return {
        "audio": draw(options.clips, 1, 1, sizes.steps, sizes.bands),
        "audio_mask": heard[:, None].to(device),
        "frames": draw(options.clips, options.frames, 3, sizes.image, sizes.image),
        "frame_mask": torch.ones(options.clips, options.frames, dtype=torch.bool, device=device),
    }


def parser():
    made = bench.parser(__doc__, rounds=5, device=True)
    made.add_argument("--clips", type=int, default=4)
    made.add_argument("--silent", type=int, default=1)
    made.add_argument("--frames", type=int, default=1)
    made.add_argument("--architecture", default="base")
    made.add_argument("--checkpointing", action="store_true", help="ours recomputes activations")
    return made


def rows(options):
    device, sizes = pick_device(options.device), sizes_of(options.architecture, vocabulary=1)
    half, model = half_type(device), Encoder(sizes).to(device)
    for part in model.children():
        part.grad_checkpointing = options.checkpointing
    clips, plain = make_clips(options, sizes, device), Plain(model, sizes)

    def ours_loss():
        with torch.autocast(device.type, half, enabled=half is not None):
            return loss_of(model(clips))

    def plain_loss():
        return loss_of(plain(clips))

    def step(loss_of_side):
        model.zero_grad(set_to_none=True)
        loss = loss_of_side()
        loss.backward()
        return loss.item()  # waits for the device

    kept = [kept_by(side, model) / 2**30 for side in (ours_loss, plain_loss)]
    yield bench.compare(
        f"CoAVT's encoder, {options.architecture}, {options.clips} clips, {options.silent} silent",
        lambda: step(ours_loss),
        lambda: step(plain_loss),
        against="masks as matrices, float32",
        options=options,
        note=lambda ours, plain: (
            f"{losses(ours.result, plain.result, options.device)}; "
            f"activations kept {kept[0]:.2f} against {kept[1]:.2f} GiB"
        ),
    )


if __name__ == "__main__":
    bench.main(parser(), rows)

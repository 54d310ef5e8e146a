"""Files of weights as others write them, at the size of the tiny architecture."""

import warnings

import torch

from clip4vla.config.data import IMAGE_SIZE
from clip4vla.loading.tokens import CLIP_VOCABULARY
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model


def tiny(head=None, seed=1, n_classes=None, **config):
    """A tiny random model."""
    config = Model(**{"architecture": "tiny", "weights": None} | config)
    return build_model(config, {}, head, n_classes, seed)


def openai_state(seed=1, **config):
    """A tiny model's CLIP under OpenAI's names, with its 49,408 words."""
    model = tiny(seed=seed, **config)
    state = {f"visual.{k}": v.clone() for k, v in model.vision.state_dict().items()}
    state |= {k: v.clone() for k, v in model.text.state_dict().items()}
    state["token_embedding.weight"] = state["token_embedding.weight"][:CLIP_VOCABULARY].clone()
    return state | {"logit_scale": torch.tensor(4.0)}


def script_archive(path, state):
    """Write a TorchScript archive as OpenAI publishes CLIP; give the tensors that are in it.

    They are fp16, with sizes beside the weights.
    """
    state = {k: v.half() for k, v in state.items()}
    state |= {
        "input_resolution": torch.tensor(IMAGE_SIZE),
        "vocab_size": torch.tensor(CLIP_VOCABULARY),
    }
    module = Holder(state, buffers=("input_resolution", "vocab_size"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's, of torch.jit
        torch.jit.script(module).save(str(path))
    return state


class Holder(torch.nn.Module):
    """A module tree with the given tensors, to be scripted."""

    def __init__(self, state, buffers=()):
        super().__init__()
        for name, value in state.items():
            if "." not in name:
                if name in buffers:
                    self.register_buffer(name, value)
                else:
                    setattr(self, name, torch.nn.Parameter(value))
        self.sizes = [1, 2]
        below = {name.split(".")[0] for name in state if "." in name}
        for part in sorted(below):
            start = part + "."
            inner = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            if part == "resblocks":
                blocks = [{k[2:]: v for k, v in inner.items() if k[0] == i} for i in "01"]
                self.resblocks = torch.nn.Sequential(*map(Holder, blocks))
            else:
                setattr(self, part, Holder(inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * len(self.sizes)


def vit_block(width, generator):
    """Tensors of a block by the names of timm, which CAV-MAE and MAE use."""
    shapes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    shapes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    shapes |= {"norm1": (width,), "norm2": (width,)}
    return linear_tensors(shapes, generator)


def linear_tensors(shapes, generator):
    """Weights of these shapes, and biases."""
    found = {}
    for name, shape in shapes.items():
        found[f"{name}.weight"] = 0.1 * torch.randn(shape, generator=generator)
        found[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return found


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def cav_mae_state(sizes, n_classes=None, seed=1):
    """A CAV-MAE: pre-trained, with its decoder, or fine-tuned, with a classifier."""
    generator, width = torch.Generator().manual_seed(seed), sizes.width
    patch = (sizes.patch, sizes.patch)
    shapes = {"patch_embed_a.proj": (width, 1, *patch), "patch_embed_v.proj": (width, 3, *patch)}
    shapes |= {"norm": (width,), "norm_a": (width,), "norm_v": (width,)}
    if n_classes is None:
        shapes |= {"decoder_embed": (32, width), "decoder_pred_a": (16, 32)}
    else:
        shapes |= {"mlp_head.0": (width,), "mlp_head.1": (n_classes, width)}
    state = linear_tensors(shapes, generator)
    layers = {"a": sizes.own_layers, "v": sizes.own_layers, "u": sizes.shared_layers}
    for stack, count in layers.items():
        for i in range(count):
            block = vit_block(width, generator)
            norms = {f"norm{n}_{letter}": (width,) for n in (1, 2) for letter in "av"}
            block |= linear_tensors(norms, generator)
            state |= prefixed(f"blocks_{stack}.{i}.", block)
    for letter, (rows, columns) in (("a", sizes.audio_grid), ("v", sizes.image_grid)):
        state[f"modality_{letter}"] = torch.randn(1, 1, width, generator=generator)
        state[f"pos_embed_{letter}"] = torch.randn(1, rows * columns, width, generator=generator)
    return state | ({"mask_token": torch.zeros(1, 1, 32)} if n_classes is None else {})


def vision_mae_state(sizes, seed=1):
    """A vision MAE, with its decoder's first map."""
    generator, width = torch.Generator().manual_seed(seed), sizes.width
    patches, (rows, columns) = (sizes.patch, sizes.patch), sizes.image_grid
    shapes = {"patch_embed.proj": (width, 3, *patches), "norm": (width,)}
    state = linear_tensors(shapes | {"decoder_embed": (32, width)}, generator)
    for i in range(sizes.own_layers + sizes.shared_layers):
        state |= prefixed(f"blocks.{i}.", vit_block(width, generator))
    state["cls_token"] = torch.randn(1, 1, width, generator=generator)
    state["pos_embed"] = torch.randn(1, 1 + rows * columns, width, generator=generator)
    return state

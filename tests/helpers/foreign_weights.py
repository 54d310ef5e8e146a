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

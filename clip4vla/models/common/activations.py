"""Activations of transformer blocks by the names of the config."""

from open_clip.transformer import QuickGELU
from torch import nn

from clip4vla.config.sections import Activation

ACTIVATIONS: dict[Activation, type[nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}

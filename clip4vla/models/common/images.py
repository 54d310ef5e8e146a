"""The input of a vision transformer: normalised pixels, and the projection of their patches."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from clip4vla.common.device import as_autocast


class ImageStatistics(NamedTuple):
    """Mean and standard deviation of the pixels of a training set, RGB in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGE_STATISTICS = {
    "clip": ImageStatistics(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    ),
    "imagenet": ImageStatistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}
CLIP_STATISTICS = IMAGE_STATISTICS["clip"]


def pixels(images: Tensor, statistics: ImageStatistics = CLIP_STATISTICS) -> Tensor:
    """Return normalised uint8 RGB [N, 3, H, W], in float32; floats are returned unchanged."""
    if images.dtype is not torch.uint8:
        return images
    mean, std = statistics
    scale, shift = (
        images.new_tensor(values, dtype=torch.float32).view(3, 1, 1)
        for values in (
            [1 / (255 * s) for s in std],
            [m / s for m, s in zip(mean, std, strict=True)],
        )
    )
    return images.float().mul_(scale).sub_(shift)  # in place: a batch of frames is large


class PatchProjection(nn.Conv2d):
    """The first layer of a ViT, a convolution of disjoint patches, as one matrix product on a GPU.

    cuDNN's kernels took 11.7 of the 106 ms of a step of CLIP4VLA on an H100
    (benchmarks/RESULTS.md); a matrix product of the same size takes half a millisecond. On a CPU
    the convolution is faster.

    An image of one channel stands for equal channels, whose weights are added up: a third of the
    work on a mono sound, and no copies of it in memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Project patches: [N, C or 1, H, W] to [N, D, rows, columns]."""
        weight = self.weight
        if x.shape[1] == 1 < self.in_channels:
            weight = weight.sum(dim=1, keepdim=True)
        if x.device.type == "cpu":
            return conv2d(x, weight, self.bias, self.stride)
        return self.product(x, weight)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply patches [N, rows * columns, C * high * wide] by the weights [D, C, ...]."""
        high, wide = self.kernel_size
        x = as_autocast(x)  # before it is copied
        x = x.unflatten(3, (-1, wide)).unflatten(2, (-1, high))  # [N, C, rows, high, columns, wide]
        rows, columns = x.shape[2], x.shape[4]
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(len(x), rows * columns, -1)
        x = linear(x, weight.flatten(1), self.bias)
        return x.transpose(1, 2).unflatten(2, (rows, columns))

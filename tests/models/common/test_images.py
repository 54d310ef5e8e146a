import pytest
import torch
from copies import copies_of

from clip4vla.models.common.images import IMAGE_STATISTICS, PatchProjection, pixels


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 96, 64)])
def test_the_first_layer_of_a_gpu_is_the_convolution_of_a_cpu(shape, bias):
    """With its gradients."""
    layer = PatchProjection(shape[0], 8, kernel_size=32, stride=32, bias=bias).double()
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    expected, found = layer(x), layer.product(x, layer.weight)
    torch.testing.assert_close(found, expected)
    inputs = [x, *layer.parameters()]
    wanted = [torch.autograd.grad(y.square().sum(), inputs) for y in (expected, found)]
    for gradient, other in zip(*wanted, strict=True):
        torch.testing.assert_close(gradient, other)


def test_patches_are_copied_in_half_precision_under_autocast():
    """On a GPU they are the largest tensors outside of the blocks."""
    layer = PatchProjection(3, 8, kernel_size=32, stride=32, bias=False)
    one_channel = torch.randn(2, 1, 224, 224)
    with torch.autocast("cpu", torch.bfloat16):
        made = copies_of(lambda: layer.product(one_channel.expand(-1, 3, -1, -1), layer.weight))
    assert [x.dtype for x in made if x.numel() >= 3 * one_channel.numel()] == [torch.bfloat16]


def test_one_channel_stands_for_equal_ones():
    """With its gradients."""
    layer = PatchProjection(3, 8, kernel_size=32, stride=32).double()
    x = torch.randn(2, 1, 64, 96, dtype=torch.float64, requires_grad=True)
    outputs = layer(x.expand(-1, 3, -1, -1)), layer(x)
    torch.testing.assert_close(*outputs)
    inputs = [x, *layer.parameters()]
    wanted = [torch.autograd.grad(y.square().sum(), inputs) for y in outputs]
    for gradient, other in zip(*wanted, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("name", IMAGE_STATISTICS)
def test_pixels_are_normalised(name):
    """The mean colour of the training images is zero, one standard deviation away is one."""
    statistics = IMAGE_STATISTICS[name]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in statistics)
    image = ((mean + std) * 255).round().to(torch.uint8).expand(1, 3, 224, 224)
    found = pixels(image, statistics)
    torch.testing.assert_close(found, torch.ones(1, 3, 224, 224), rtol=0, atol=0.01)
    assert pixels(found, statistics) is found

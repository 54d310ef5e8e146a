"""Large products on a CPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clip4vla.common import device, onednn
from clip4vla.common.onednn import ROWS, WEIGHTS, LargeProducts, is_faster
from clip4vla.models.common.similarity import similarities

CPU = torch.device("cpu")
WIDTH = 256


class ByOneDnn(TorchDispatchMode):
    """Counts its products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        self.count += operator is torch.ops.aten.mkldnn_linear.default
        return operator(*arguments, **(options or {}))


def layer(outputs=WEIGHTS // WIDTH, **options):
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, outputs, **options)


def strided(**options):
    """A layer whose bias is every other number of a tensor."""
    made = layer(**options)
    made.bias = torch.nn.Parameter(torch.randn(len(made.bias), 2)[:, 0])
    return made


def rows(*shape, **options):
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(1), **options)


@pytest.fixture
def faster(monkeypatch):
    """Any processor is one where it takes less time."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(device, "is_faster", lambda: True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(ROWS,), (2, ROWS // 2), (1, 7, ROWS)])
@torch.no_grad()
def test_large_products(faster, shape, bias):
    x, linear = rows(*shape), layer(bias=bias)
    with ByOneDnn() as counted, device.autocast(CPU):
        found = linear(x)
    exact = linear.double()(x.double())
    assert counted.count == 1 and found.layout is torch.strided
    torch.testing.assert_close(found, exact.float(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_equal_clips_tie(faster):
    own, texts, clips = rows(7), torch.arange(ROWS) % 7, torch.arange(301) % 7
    with ByOneDnn() as counted, device.autocast(CPU):
        found = similarities(own[texts], own[clips], None, scale=100.0)["t_v"]
    assert counted.count == 1
    assert torch.equal(found, found[texts][:, clips])


@pytest.mark.parametrize(
    ("x", "linear"),
    [
        (rows(ROWS - 1), layer()),
        (rows(ROWS), layer(outputs=WEIGHTS // WIDTH - 1)),
        (rows(ROWS).double(), layer().double()),
        (rows(ROWS).bfloat16(), layer().bfloat16()),
        (rows(ROWS, device="cpu").to("meta"), layer(device="meta")),
        (rows(1, 1, 1, 1, ROWS), layer()),
        (rows(ROWS), strided()),
    ],
    ids=["few rows", "small weights", "float64", "bfloat16", "meta", "6 dimensions", "bias"],
)
@torch.no_grad()
def test_other_products_are_torchs(faster, x, linear):
    with ByOneDnn() as counted, device.autocast(CPU):
        found = linear(x)
    assert counted.count == 0
    assert found.is_meta or torch.equal(found, linear(x))


@torch.no_grad()
def test_scores_stay_in_float32_under_autocast(faster):
    x, linear = rows(ROWS), layer()
    with ByOneDnn() as counted, torch.autocast("cpu", torch.bfloat16), device.in_float32(CPU):
        found = linear(x)
    assert counted.count == 1
    torch.testing.assert_close(found, linear(x))


@torch.no_grad()
def test_autocast_inside_halves_products(faster):
    with ByOneDnn() as counted, device.in_float32(CPU), torch.autocast("cpu", torch.bfloat16):
        found = layer()(rows(ROWS))
    assert counted.count == 0 and found.dtype is torch.bfloat16


@torch.no_grad()
def test_wrong_shapes_are_torchs_errors(faster):
    x, linear = rows(ROWS)[:, :-1], layer()
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"), device.autocast(CPU):
        linear(torch.cat([x, x]))


def test_nothing_changes_where_something_is_learnt(faster):
    x, linear = rows(ROWS), layer()
    with ByOneDnn() as counted, device.autocast(CPU), LargeProducts():
        linear(x).sum().backward()
    assert counted.count == 0 and linear.weight.grad.any()


@torch.no_grad()
def test_compiled_products_are_the_compilers(faster):
    x, linear = rows(ROWS), layer()
    with device.autocast(CPU):
        found = torch.compile(linear, backend="aot_eager")(x)
    torch.testing.assert_close(found, linear(x))


@pytest.mark.parametrize(
    ("vendor", "widest", "expected"),
    [
        ("AuthenticAMD", "AVX512", torch.backends.mkldnn.is_available()),
        ("AuthenticAMD", "AVX2", False),  # MKL uses all of it
        ("GenuineIntel", "AVX512", False),
        (None, "AVX512", False),  # not Linux
    ],
)
def test_on_which_processors(monkeypatch, tmp_path, vendor, widest, expected):
    path = tmp_path / "cpuinfo"
    if vendor:
        path.write_text(f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr(onednn, "Path", lambda name: path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: widest)
    assert is_faster.__wrapped__() is expected


@torch.no_grad()
def test_on_other_processors_nothing_changes(monkeypatch):
    monkeypatch.setattr(device, "is_faster", lambda: False)
    x, linear = rows(ROWS), layer()
    with ByOneDnn() as counted, device.autocast(CPU):
        assert torch.equal(linear(x), linear(x))
    assert counted.count == 0

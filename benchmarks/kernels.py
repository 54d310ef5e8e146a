"""What torch's compiler launches for a block on a GPU, and the least time that it takes there.

    python benchmarks/kernels.py [--clips 128]

No GPU is used. The graphs of a block, forward and backward in bfloat16, are captured on the CPU,
said to be on an H100, and given to the scheduler of inductor, which fuses what it would fuse there.
Counted are kernels and the bytes that they read and write. The least time is that of products and
attention at the H100's peak and of the other bytes at the rate of its memory: a real step takes
longer, and `make bench-gpu` measures it. The other sides are the same block without compilation,
where each operator is a kernel, and with the attention of torch.nn.

Blocks have the sizes of ViT-B: in stage 1 a clip has two views of 10 segments with 51 tokens, in
CoAVT 512 tokens of sound. A GPU's autocast moves more without compilation than is counted here: it
casts the input of a LayerNorm to float32, which the CPU's does not.
"""

import contextlib
import copy
import dataclasses
import types
from unittest import mock

import bench
import torch
from bench.rounds import operations
from bench.rows import PEAK, Row
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.towers import VisionTower
from clip4vla.models.coavt.blocks import Block
from clip4vla.models.coavt.sizes import sizes_of

WIDTH = 768
MEMORY_RATE = 3.35e12  # bytes/s of the H100's memory (SXM), from its data sheet
H100 = types.SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 * 2**30,
    regs_per_multiprocessor=2**16,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
)
FILES = "common/attention", "common/blocks", "coavt/blocks"
CODE = [f"clip4vla/models/{file}.py" for file in FILES]
PRODUCTS = ("mm", "addmm")
VIEWS = [
    "view",
    "_unsafe_view",
    "t",
    "transpose",
    "permute",
    "expand",
    "unsqueeze",
    "squeeze",
    "select",
    "slice",
    "split",
    "detach",
    "alias",
    "as_strided",
    "unbind",
    "chunk",
    "empty",
]


@dataclasses.dataclass
class Launched:
    """Kernels of a step of a block, and the bytes of those that are not products with weights."""

    kernels: int = 0
    bytes: int = 0

    def add(self, size: int, product: bool) -> None:
        """Count a kernel that reads and writes `size` bytes."""
        self.kernels += 1
        self.bytes += 0 if product else size


class Operators(TorchDispatchMode):
    """Counts the operators that run within it."""

    def __init__(self):
        super().__init__()
        self.launched = Launched()

    def __torch_dispatch__(self, operator, kinds, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        namespace, name = operator._schema.name.split("::")
        if namespace == "aten" and name not in VIEWS:
            tensors = [
                x
                for x in tree_leaves((arguments, options, result))
                if isinstance(x, torch.Tensor) and 0 not in x.stride()  # not one number, expanded
            ]
            self.launched.add(sum(x.nbytes for x in tensors), name in PRODUCTS)
        return result


def step(block: nn.Module, x: torch.Tensor) -> None:
    """Forward and backward, in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    y.backward(torch.empty_like(y))


def eager(block: nn.Module, x: torch.Tensor) -> Launched:
    """What a block launches without compilation."""
    with Operators() as counted:
        step(block, x)
    return counted.launched


def compiled(block: nn.Module, x: torch.Tensor) -> Launched:
    """What a block launches on a GPU once it is compiled, as training compiles it."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    launched = Launched()

    def scheduled(graph, inputs):
        schedule(copy.deepcopy(graph), inputs, launched)
        return make_boxed_func(graph)

    backend = aot_autograd(
        fw_compiler=scheduled,
        bw_compiler=scheduled,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    torch._dynamo.reset()
    step(torch.compile(block, backend=backend, dynamic=True), x)
    return launched


def schedule(graph, inputs, launched: Launched) -> None:
    """Count what inductor would launch on a GPU for a graph that was captured on the CPU."""
    from torch._inductor.compile_fx import _recursive_post_grad_passes
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    def moved(x):
        if not isinstance(x, torch.Tensor):
            return x
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")

    fake = torch._guards.detect_fake_mode(inputs)
    with said_to_be_an_h100(), V.set_fake_mode(fake):
        with fake:
            inputs = [moved(x) for x in inputs]
        for node in graph.graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = node.kwargs | {"device": torch.device("cuda", 0)}
        FakeTensorProp(graph, fake).propagate_dont_convert_inputs(*inputs)
        _recursive_post_grad_passes(graph)
        lowered = GraphLowering(graph, inputs, shape_env=fake.shape_env)
        with V.set_debug_handler(DebugContext()), V.set_graph_handler(lowered):
            lowered.run(*inputs)
            lowered._update_scheduler()
            for node in lowered.scheduler.nodes:
                size = node.get_read_write_buffers_sizes()
                if size and type(node.node).__name__ != "MultiOutput":  # part of another's result
                    name = getattr(node.node, "python_kernel_name", None) or ""
                    launched.add(size, name.removeprefix("extern_kernels.") in PRODUCTS)


@contextlib.contextmanager
def said_to_be_an_h100():
    """Let torch plan for an H100 that is not there."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import scheduler
    from torch._subclasses import fake_tensor

    answers = {
        torch.cuda: {
            "is_available": True,
            "device_count": 1,
            "current_device": 0,
            "get_device_properties": H100,
            "get_device_capability": (H100.major, H100.minor),
            "_lazy_init": None,
        },
        CudaInterface: {
            "get_device_properties": H100,
            "get_compute_capability": 10 * H100.major + H100.minor,
        },
        scheduler: {"has_triton": True},
        fake_tensor: {"init_gpu_context": None},
    }
    with contextlib.ExitStack() as stack:
        for place, named in answers.items():
            for name, answer in named.items():
                said = staticmethod(lambda *given, answer=answer: answer)
                stack.enter_context(mock.patch.object(place, name, said))
        yield


def with_torchs_attention(block: nn.Module) -> nn.Module:
    """The block as open_clip makes it."""
    block.attn.__class__ = nn.MultiheadAttention
    return block


def clip_block() -> nn.Module:
    """A block of a tower of CLIP4VLA."""
    return VisionTower(resolve("ViT-B-32")).transformer.resblocks[0]


def coavt_block() -> nn.Module:
    """A block of one modality of CoAVT's encoder."""
    return Block(sizes_of("base", vocabulary=1), "gelu")


def rows(options):
    clips = options.clips
    tower, tokens = f"CLIP4VLA's tower, {20 * clips} x 51 tokens", (20 * clips, 51)
    yield compared(tower, tokens, clip_block, "without compile", lambda x: eager(clip_block(), x))
    yield compared(
        f"CoAVT's encoder, {clips} x 512 tokens",
        (clips, 512),
        coavt_block,
        "without compile",
        lambda x: eager(coavt_block(), x),
    )
    yield compared(
        tower,
        tokens,
        clip_block,
        "attention of torch.nn, compiled",
        lambda x: compiled(with_torchs_attention(clip_block()), x),
    )


def compared(name, shape, make, against, plain):
    """The row of a block: what it launches compiled, and the other side for the same input."""
    with FakeTensorMode():
        x = torch.empty(*shape, WIDTH, dtype=torch.bfloat16, requires_grad=True)
        with operations() as counter:
            step(make(), x)
        ours, theirs = compiled(make(), x), plain(x)
    least = counter.get_total_flops() / (1e12 * PEAK["H100"])
    seconds, plain_seconds = (least + one.bytes / MEMORY_RATE for one in (ours, theirs))
    return Row(
        name,
        baseline=against,
        baseline_seconds=plain_seconds,
        seconds=seconds,
        ratio=plain_seconds / seconds,
        lowest=plain_seconds / seconds,
        highest=plain_seconds / seconds,
        clock="at least",
        note=f"{ours.kernels} against {theirs.kernels} kernels; {ours.bytes / 1e9:.2f} against "
        f"{theirs.bytes / 1e9:.2f} GB beside products; at most {least / seconds:.0%} of the peak",
    )


def parser():
    made = bench.parser(__doc__, rounds=1)
    made.add_argument("--clips", type=int, default=128)
    return made


if __name__ == "__main__":
    bench.main(parser(), rows, CODE)

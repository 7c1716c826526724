"""Estimated frame times of a network on GPUs that are not here, from its graph and the GPUs' published figures.

The roofline model (Williams et al., 2009): a kernel takes as long as its arithmetic at the GPU's arithmetic rate or its
memory traffic at the GPU's bandwidth, whichever is longer; a frame is the sum of its kernels. What is assumed of the
compiler:

- convolutions, matrix products, norms, softmax and resizing are kernels; each reads its inputs and weights once and
  writes its output once;
- casts, activations, sums and the rearranging of data are done inside them at no cost, but for the second operand of
  a sum, which is read;
- attention is one kernel: the scores never reach memory;
- values between kernels are stored in half precision.

The estimates are for the GPU alone: no launch overhead, no copies, no power limit. A multiplication and an addition
count as two operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import nn

from sem_depth_training.half_precision import WEIGHTED, to_half_precision
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.onnx_graph import export_graph, seecoder_scopes

ARITHMETIC_UTILISATION = 0.5
"""Share of the published arithmetic rate that a kernel is assumed to reach."""

BANDWIDTH_UTILISATION = 0.75
"""Share of the published bandwidth that a kernel is assumed to reach."""

PASSES = frozenset({"GroupNormalization", "LayerNormalization", "Resize", "Softmax"})
_SUMS = frozenset({"Add", "Mul", "Sub"})
_HALF_BYTES = 2


@dataclass(frozen=True)
class Gpu:
    """Published figures: dense tensor rates (no sparsity), float16 with float32 sums, and memory bandwidth.

    Attributes:
        half, byte: tera-operations per second in float16, and in int8 (fp8 where `fp8` says so).
        bandwidth: GB/s.
        source: where the figures are published.
    """

    name: str
    half: float
    byte: float
    bandwidth: float
    fp8: bool
    source: str


GPUS = (
    Gpu(
        "Jetson AGX Orin 64GB",
        42.5,
        85.0,
        204.8,
        False,
        "NVIDIA Jetson AGX Orin Series technical brief: GPU 170 int8 TOPS sparse, 204.8 GB/s; float16 is half of int8",
    ),
    Gpu(
        "Jetson Thor T5000",
        258.75,
        517.5,
        273.0,
        True,
        "NVIDIA Jetson Thor datasheet: 2070 fp4 TFLOPS sparse, 273 GB/s; float16 is an eighth, fp8 and int8 a quarter",
    ),
    Gpu(
        "GeForce RTX 4090",
        165.2,
        330.3,
        1008.0,
        True,
        "NVIDIA Ada GPU architecture whitepaper: float16 and fp8 with float32 sums, dense (int8: 660.6), 1008 GB/s",
    ),
    Gpu(
        "L4",
        121.0,
        242.5,
        300.0,
        True,
        "NVIDIA L4 datasheet: 242 float16 TFLOPS and 485 int8 and fp8 sparse, 300 GB/s; dense is half",
    ),
)


@dataclass(frozen=True)
class Kernel:
    """What one kernel does for a frame: operations, weight elements read, and bytes of activations moved.

    ``quantisable`` kernels have weights, and run in int8 or fp8 where the network does.
    """

    operator: str
    operations: int
    weights: int
    activation_bytes: int
    quantisable: bool

    def seconds(self, gpu: Gpu, quantised: bool, arithmetic: float, bandwidth: float) -> float:
        """How long it takes at these shares of the GPU's rates."""
        quantised = quantised and self.quantisable
        moved = self.activation_bytes + self.weights * (1 if quantised else _HALF_BYTES)
        rate = gpu.byte if quantised else gpu.half
        return max(self.operations / (rate * 1e12 * arithmetic), moved / (gpu.bandwidth * 1e9 * bandwidth))


def half_graph(build: Callable[[], DepthNetwork], size: tuple[int, int]) -> ir.Model:
    """The half-precision graph of a network for images of ``size`` (height, width): shapes only, no weights."""
    with torch.device("meta"):
        network = build()
    _forget_weights(network)
    graph = export_graph(network, size)
    to_half_precision(graph, seecoder_scopes(network))
    return graph


def kernels_of(model: ir.Model) -> list[Kernel]:
    """The kernels of a graph whose shapes are all known, in its order. Raises ValueError where one is not."""
    kernels = []
    for node in model.graph:
        if node.op_type in WEIGHTED:
            kernels.append(_weighted(node))
        elif node.op_type in PASSES and not (node.op_type == "Softmax" and _is_attention(node)):
            moved = _elements(node.inputs[0]) + _elements(node.outputs[0])
            kernels.append(Kernel(node.op_type, 0, 0, _HALF_BYTES * moved, False))
        elif node.op_type in _SUMS and sum(_is_map(value) for value in node.inputs) == len(node.inputs):
            second = min(_elements(value) for value in node.inputs)
            kernels.append(Kernel(node.op_type, 0, 0, _HALF_BYTES * second, False))
    return kernels


def frame_seconds(
    kernels: Iterable[Kernel],
    gpu: Gpu,
    quantised: bool = False,
    arithmetic: float = ARITHMETIC_UTILISATION,
    bandwidth: float = BANDWIDTH_UTILISATION,
) -> float:
    """The estimate for a frame."""
    return sum(kernel.seconds(gpu, quantised, arithmetic, bandwidth) for kernel in kernels)


def roofline_markdown(networks: Sequence[tuple[str, list[Kernel]]], command: str) -> str:
    """The estimates as a page: what each of ``networks`` (name and kernels) does, and how long on each GPU."""
    lines = [
        "# Frame times on GPUs, estimated",
        "",
        f"Written by `{command}`. **These are estimates, not measurements**: nothing here has run on a GPU.",
        "",
        "| network | GFLOP a frame | weights that kernels read (M) | activations moved (MB) |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, kernels in networks:
        operations, weights, moved = (
            sum(getattr(kernel, field) for kernel in kernels) for field in ("operations", "weights", "activation_bytes")
        )
        lines.append(f"| {name} | {operations / 1e9:.0f} | {weights / 1e6:.0f} | {moved / 1e6:.0f} |")
    lines += [
        "",
        "Milliseconds a frame (frames a second), and in brackets the least that the published peaks allow:",
        "",
    ]
    lines += ["| network | precision | " + " | ".join(gpu.name for gpu in GPUS) + " |"]
    lines += ["| --- | --- |" + " ---: |" * len(GPUS)]
    for name, kernels in networks:
        for quantised, precision in ((False, "float16"), (True, "int8 or fp8")):
            cells = []
            for gpu in GPUS:
                estimate = frame_seconds(kernels, gpu, quantised)
                least = frame_seconds(kernels, gpu, quantised, 1.0, 1.0)
                cells.append(f"{1e3 * estimate:.0f} ({1 / estimate:.1f}) [{1e3 * least:.0f}]")
            lines.append(f"| {name} | {precision} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Assumed: {ARITHMETIC_UTILISATION:.0%} of the arithmetic rate and {BANDWIDTH_UTILISATION:.0%} of the",
        "bandwidth are reached, and a kernel takes the longer of the two; the rates are dense, float16 with float32",
        "sums. Convolutions, matrix products, norms and resizing are kernels, activations and sums are inside them,",
        "attention scores never reach memory, and values between kernels are float16. In int8 or fp8 the layers with",
        "weights run at the rate of bytes and their weights are bytes; attention's products stay in float16. Launches,",
        "copies and power limits are left out.",
        "Neither an int8 nor an fp8 bundle of this network exists: those rows say what one could give.",
        "",
        "| GPU | float16 TFLOPS | int8 or fp8 TOPS | GB/s | source |",
        "| --- | ---: | ---: | ---: | --- |",
        *(
            f"| {gpu.name} | {gpu.half:g} | {gpu.byte:g}{'' if gpu.fp8 else ' (no fp8)'} | {gpu.bandwidth:g} "
            f"| {gpu.source} |"
            for gpu in GPUS
        ),
        "",
    ]
    return "\n".join(lines)


def _forget_weights(network: nn.Module) -> None:
    """Give a network on the meta device weights that can be read but take no memory: one zero, shown as a tensor."""
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            zero = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
            module.register_parameter(name, nn.Parameter(zero, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))


def _weighted(node: ir.Node) -> Kernel:
    data, other, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None
    assert other is not None
    if node.op_type == "Conv":
        operations = _elements(output) * math.prod(_shape(other)[1:])  # input channels of a group, times kernel area
    elif node.op_type == "ConvTranspose":
        operations = _elements(data) * math.prod(_shape(other)[1:])  # output channels of a group, times kernel area
    else:
        operations = _elements(output) * _shape(data)[-1]
    constant = other.const_value is not None
    moved = 0 if _from_softmax(data) else _elements(data)
    moved += 0 if constant else _elements(other)
    moved += 0 if _to_softmax(output) else _elements(output)
    weights = _elements(other) if constant else 0
    return Kernel(node.op_type, 2 * operations, weights, _HALF_BYTES * moved, constant)


def _is_attention(softmax: ir.Node) -> bool:
    """Whether a softmax is of scores: a matrix product makes them, and the next one takes them."""
    return _from_matmul(softmax.inputs[0]) and _to_matmul(softmax.outputs[0])


def _from_softmax(value: ir.Value) -> bool:
    producer = _source(value)
    return producer is not None and producer.op_type == "Softmax" and _is_attention(producer)


def _to_softmax(value: ir.Value) -> bool:
    return any(node.op_type == "Softmax" and _is_attention(node) for node in _users(value))


def _from_matmul(value: ir.Value | None) -> bool:
    producer = _source(value)
    return producer is not None and producer.op_type == "MatMul"


def _to_matmul(value: ir.Value) -> bool:
    return any(node.op_type == "MatMul" for node in _users(value))


_WITHIN = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Reshape", "Where"})
"""What may stand between a matrix product of attention and its softmax: scale, mask, precision."""


def _source(value: ir.Value | None) -> ir.Node | None:
    """The node that a value comes from, seen through `_WITHIN`."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _WITHIN:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return node


def _users(value: ir.Value) -> list[ir.Node]:
    """The nodes that a value goes to, seen through `_WITHIN`."""
    found = []
    for use in value.uses():
        if use.node.op_type not in _WITHIN:
            found.append(use.node)
        elif use.idx == 0:
            found += _users(use.node.outputs[0])
    return found


def _is_map(value: ir.Value | None) -> bool:
    """Whether a value is an activation: not a weight, and more than a number."""
    return value is not None and value.const_value is None and _elements(value) > 1


def _elements(value: ir.Value | None) -> int:
    return 0 if value is None else math.prod(_shape(value))


def _shape(value: ir.Value) -> list[int]:
    if value.shape is None or not all(isinstance(side, int) for side in value.shape):
        raise ValueError(f"value {value.name}: shape is {value.shape}, expected known sizes; export for one size")
    return [int(side) for side in value.shape]  # type: ignore[arg-type]

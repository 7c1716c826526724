"""An exported network in strongly typed half precision.

TensorRT-RTX and TensorRT 11 take every layer's precision from the ONNX graph. Convolutions and matrix products, which
hold the weights and the time, become float16; what overflows or loses its meaning there stays in float32:

- norms, softmax, exponentials and reductions;
- every sum inside the given scopes (SeeCoder's residual stream);
- the end of the graph, after the last convolution: half precision has steps of 6 cm at 100 m.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SENSITIVE = frozenset(
    [
        "BatchNormalization",
        "Cos",
        "Exp",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "Log",
        "Pow",
        "Reciprocal",
        "ReduceMean",
        "ReduceSum",
        "RMSNormalization",
        "Sin",
        "Softmax",
        "Sqrt",
    ]
)
DATA_MOVEMENT = frozenset(
    [
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ]
)
FLOATING = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
HALF_MAXIMUM = float(np.finfo(np.float16).max)

MEDIAN_DIFFERENCE = 1e-2
"""Median relative difference of depth allowed between torch in float32 and a graph in half precision."""


def to_half_precision(model: ir.Model, float32_scopes: Sequence[str] = ()) -> None:
    """Give every node of a float32 model its precision, in place; inputs and outputs of the graph keep their types.

    ``float32_scopes`` are module paths as in ``network.named_modules()``; inside them only the weighted layers are
    half. Weights are converted while the model is saved, one at a time. Raises ValueError, then, for a weight that does
    not fit float16.
    """
    LiftConstantsToInitializersPass()(model)
    graph = model.graph
    casts = _Casts(graph)
    tail = _after_last_weights(graph)
    for node in list(graph):
        if all(output.dtype not in FLOATING for output in node.outputs):
            continue
        dtype = _precision(node, kept=node in tail or _inside(node, float32_scopes))
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", dtype)
        else:
            for index, value in _data_inputs(node):
                node.replace_input_with(index, casts.value(value, dtype))
        for output in node.outputs:
            output.dtype = dtype
    for index, output in enumerate(graph.outputs):
        if output.dtype == ir.DataType.FLOAT16:
            single = casts.value(output, ir.DataType.FLOAT)
            single.name, output.name = output.name, f"{output.name}_half"
            graph.outputs[index] = single
    for name, weight in list(graph.initializers.items()):
        if not weight.uses():
            del graph.initializers[name]


def extreme_frames(frame: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    """The frame, and the frame scaled to the extremes: contrast so high that every value is 0 or 255, black, white."""
    thresholded = np.where(frame > np.median(frame), 255, 0).astype(np.uint8)
    return {
        "frame": frame,
        "only 0 and 255": thresholded,
        "black": np.zeros_like(frame),
        "white": np.full_like(frame, 255),
    }


class _Casts:
    """Values in another precision: a Cast node after the producer, or, for a weight, a converted weight."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.done: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def value(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self.done:
            constant = value.const_value is not None
            self.done[value, dtype] = self._weight(value, dtype) if constant else self._cast(value, dtype)
        return self.done[value, dtype]

    def _weight(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        tensor = value.const_value
        assert tensor is not None
        name = f"{value.name}_{dtype.name.lower()}"

        def convert() -> ir.TensorProtocol:
            array = tensor.numpy()
            if np.abs(array).max(initial=0.0) > HALF_MAXIMUM:
                raise ValueError(f"weight {value.name}: {np.abs(array).max():g} is beyond float16's {HALF_MAXIMUM:g}")
            return ir.Tensor(array.astype(dtype.numpy()), name=name)

        lazy = ir.LazyTensor(convert, dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)
        converted = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape, const_value=lazy)
        self.graph.register_initializer(converted)
        return converted

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        name = f"{value.name}_{dtype.name.lower()}"
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
        cast = ir.node("Cast", [value], attributes={"to": dtype}, outputs=[output], name=f"cast_{name}")
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], cast)
        else:
            cast.metadata_props.update(producer.metadata_props)
            self.graph.insert_after(producer, cast)
        return output


def _precision(node: ir.Node, kept: bool) -> ir.DataType:
    if node.op_type in WEIGHTED:
        return ir.DataType.FLOAT16
    if node.op_type in DATA_MOVEMENT:
        # Moving data is no reason to convert it; where parts of both kinds meet, half wins outside the kept scopes.
        found = [
            value.dtype for _, value in _data_inputs(node) if value.const_value is None and value.dtype is not None
        ]
        if len(set(found)) == 1:
            return found[0]
    return ir.DataType.FLOAT if kept or node.op_type in SENSITIVE else ir.DataType.FLOAT16


def _data_inputs(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """The floating-point inputs that share the node's precision, with their places."""
    inputs = node.inputs[:1] if node.op_type == "Resize" else node.inputs  # a Resize's scales are always float32
    return [(index, value) for index, value in enumerate(inputs) if value is not None and value.dtype in FLOATING]


def _after_last_weights(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that only outputs of the graph depend on, with no convolution or matrix product in between."""
    tail: set[ir.Node] = set()
    outputs = set(graph.outputs)
    for node in reversed(graph):
        followers = {use.node for output in node.outputs for use in output.uses()}
        leads_out = bool(followers) or any(output in outputs for output in node.outputs)
        if node.op_type not in WEIGHTED and leads_out and followers <= tail:
            tail.add(node)
    return tail


def _inside(node: ir.Node, scopes: Sequence[str]) -> bool:
    """Whether the exporter recorded that the node belongs to a module in one of the scopes."""
    recorded = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    return any(f"'{scope}'" in recorded for scope in scopes)

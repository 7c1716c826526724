"""Estimates from a graph: what is counted, and how it becomes a time."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sem_depth_training.roofline import Gpu, Kernel, frame_seconds, kernels_of

HALF = TensorProto.FLOAT16


def graph_of(nodes: list[onnx.NodeProto], shapes: dict[str, list[int]], weights: dict[str, list[int]]) -> ir.Model:
    """A graph from `x` to `y` whose values have these shapes."""
    infos = {name: helper.make_tensor_value_info(name, HALF, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [infos.pop("x")],
        [infos.pop("y")],
        [numpy_helper.from_array(np.zeros(shape, np.float16), name) for name, shape in weights.items()],
        value_info=list(infos.values()),
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def test_a_convolution_reads_its_input_and_weights_and_writes_its_output() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    shapes = {"x": [1, 8, 10, 20], "c": [1, 4, 8, 18], "y": [1, 4, 8, 18]}
    (kernel,) = kernels_of(graph_of(nodes, shapes, {"w": [4, 8, 3, 3]}))
    assert kernel.operations == 2 * (4 * 8 * 18) * (8 * 3 * 3)
    assert kernel.weights == 4 * 8 * 3 * 3
    assert kernel.activation_bytes == 2 * (8 * 10 * 20 + 4 * 8 * 18)
    assert kernel.quantisable


def test_scores_of_attention_never_reach_memory() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "k"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["shares"]),
        helper.make_node("MatMul", ["shares", "x"], ["y"]),
        helper.make_node("Transpose", ["x"], ["k"], perm=[0, 2, 1]),
    ]
    nodes = [nodes[-1], *nodes[:-1]]
    rows, scores = [2, 50, 16], {name: [2, 50, 50] for name in ("scores", "scaled", "shares")}
    shapes = {"x": rows, "k": [2, 16, 50], **scores, "y": rows}
    kernels = kernels_of(graph_of(nodes, shapes, {"scale": []}))
    assert [kernel.operator for kernel in kernels] == ["MatMul", "MatMul"]
    assert [kernel.activation_bytes for kernel in kernels] == [2 * 2 * (2 * 50 * 16)] * 2
    assert sum(kernel.operations for kernel in kernels) == 2 * 2 * (2 * 50 * 50 * 16)
    assert not any(kernel.quantisable for kernel in kernels)


def test_a_graph_of_open_sizes_is_refused_by_name() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    model = graph_of(nodes, {"x": [1, 8, 10, 20], "y": [1, 4, 8, 18]}, {"w": [4, 8, 3, 3]})
    model.graph.outputs[0].shape = ir.Shape([1, 4, "rows", 18])
    with pytest.raises(ValueError, match=r"value y: shape is .*rows.*export for one size"):
        kernels_of(model)


def test_a_kernel_takes_the_longer_of_arithmetic_and_traffic() -> None:
    gpu = Gpu("test", half=1.0, byte=2.0, bandwidth=1.0, fp8=False, source="")
    computes = Kernel("Conv", int(4e9), 1000, 2000, True)
    moves = Kernel("LayerNormalization", 0, 0, int(6e6), False)
    assert frame_seconds([computes, moves], gpu, False, 1.0, 1.0) == pytest.approx(4e-3 + 6e-3)
    assert frame_seconds([computes, moves], gpu, False, 0.5, 0.75) == pytest.approx(8e-3 + 8e-3)
    assert frame_seconds([computes, moves], gpu, True, 1.0, 1.0) == pytest.approx(2e-3 + 6e-3)
    weights = Kernel("MatMul", 1, int(1e6), 0, True)
    assert frame_seconds([weights], gpu, False, 1.0, 1.0) == pytest.approx(2e-3)
    assert frame_seconds([weights], gpu, True, 1.0, 1.0) == pytest.approx(1e-3)

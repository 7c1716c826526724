"""A bundle's graph with the walk of a frame around it: what the estimator does on the processor, done on the device.

The whole image goes up as uint8. Framing and resizing, metres, validity, confidence and the way back to the image's
size are nodes of the graph, so that TensorRT compiles them with the network; depth and confidence come down, as float32
or float16, and the points if wanted. The graph is for one size of camera image, one principal point and one set of
settings.

`Framing` samples an image bilinearly and averages what it sampled, which no ONNX operator does for every ratio. Both
are linear in each axis, so here they are two products with constant matrices, whose entries OpenCV itself gives;
cropping is in them. The result is rounded to whole levels as OpenCV's is, though not in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sem_depth_node.bundle import BundleInput, Manifest
from sem_depth_node.camera import CameraModel
from sem_depth_node.framing import Framing
from sem_depth_node.validity import CONFIDENCE_FACTOR

INPUTS = ("frame", "metres_per_canonical")
"""uint8 [1, H, W, 3] RGB, and float32 [1]: `scale_of` of the camera (times a scale correction, if there is one)."""


@dataclass(frozen=True)
class FullFrame:
    """What the graph is for.

    Attributes:
        camera: of the images; its focal lengths are free to change later, its size and principal point are not.
        flying_pixel_threshold, min_depth, max_depth: as in `EstimatorSettings`, metres.
        half: depth and confidence are float16.
        points: x, y, z in metres in the optical frame are an output too, float32 [1, H, W, 3]; this ties the graph to
            the focal lengths.
    """

    camera: CameraModel
    min_depth: float
    max_depth: float
    flying_pixel_threshold: float = 0.2
    half: bool = False
    points: bool = False


class FullFrameError(ValueError):
    """An image that cannot be framed inside the graph."""


def scale_of(camera: CameraModel, size: BundleInput, manifest: Manifest) -> float:
    """The graph's input `metres_per_canonical`."""
    return Framing(camera, size.height, size.width).camera.focal_length / manifest.canonical_focal_length


def copied_bytes(height: int, width: int, half: bool, points: bool) -> tuple[int, int]:
    """Bytes that a frame of this size takes up to the device and down from it."""
    pixels = height * width
    return 3 * pixels, pixels * (2 * (2 if half else 4) + (12 if points else 0))


def contract(settings: FullFrame) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Inputs and outputs of the wrapped graph: TensorRT's name of the type, and the shape."""
    shape = (1, settings.camera.height, settings.camera.width)
    kind = "HALF" if settings.half else "FLOAT"
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "frame": ("UINT8", (*shape, 3)),
        "metres_per_canonical": ("FLOAT", (1,)),
        "depth": (kind, shape),
        "confidence": (kind, shape),
    }
    return {**tensors, "points": ("FLOAT", (*shape, 3))} if settings.points else tensors


def wrap(size: BundleInput, settings: FullFrame, path: Path) -> None:
    """Write the wrapped graph of one input of a bundle to `path`, with its weights beside it.

    Raises FullFrameError where the graph does not begin by casting its image.
    """
    model = ir.load(size.path)
    graph = model.graph
    camera = settings.camera
    framing = Framing(camera, size.height, size.width)
    (image,) = graph.inputs
    depth, log_scale = graph.outputs
    frame = _tensor("frame", ir.DataType.UINT8, (1, camera.height, camera.width, 3))
    scale = _tensor("metres_per_canonical", ir.DataType.FLOAT, (1,))
    head = _Nodes(graph, "head")
    seen = _resized(head, frame, framing, size)
    # Every network begins by casting its image, and in the middle of a graph TensorRT knows no uint8.
    for use in list(image.uses()):
        if use.node.op_type != "Cast":
            raise FullFrameError(f"{size.path}: {use.node.op_type} takes the image, expected Cast")
        kind = ir.DataType(use.node.attributes["to"].as_int())
        use.node.outputs[0].replace_all_uses_with(head.op("Cast", seen, to=kind))
        graph.remove(use.node, safe=True)
    head.insert_before(graph[0])
    tail = _Nodes(graph, "tail")
    outputs = _answers(tail, depth, log_scale, scale, framing, settings)
    tail.append()
    depth.name, log_scale.name = "canonical_depth", "network_log_scale"
    graph.inputs.clear()
    graph.inputs.extend([frame, scale])
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    ir.save(model, path, external_data=f"{path.stem}.bin")


def resize_matrix(before: int, after: int, start: int, length: int, multiple: int) -> npt.NDArray[np.float32]:
    """float32 [after, before]: one axis of what `Framing` does to the pixels [start, start + length).

    They are sampled bilinearly at `multiple` pixels, and these averaged to `after`.
    """
    sampled = cv2.resize(np.eye(length, dtype=np.float32), (length, multiple), interpolation=cv2.INTER_LINEAR)
    weights = np.zeros((after, before), np.float32)
    weights[:, start : start + length] = sampled.reshape(after, multiple // after, length).mean(1)
    return weights


def _resized(nodes: _Nodes, frame: ir.Value, framing: Framing, size: BundleInput) -> ir.Value:
    """float32 [1, h, w, 3], whole levels: what `Framing.to_engine` makes of the frame."""
    window, (width, height) = framing.source, framing.image_size
    columns, lines = framing.multiple
    down = resize_matrix(height, size.height, window.y, window.height, lines)
    across = resize_matrix(width, size.width, window.x, window.width, columns)
    pixels = nodes.op("Cast", frame, to=ir.DataType.FLOAT)
    rows = nodes.op("Reshape", pixels, nodes.constant([height, width * 3]))
    rows = nodes.op("MatMul", nodes.constant(down), rows)
    cells = nodes.op("Reshape", rows, nodes.constant([size.height, width, 3]))
    cells = nodes.op("Round", nodes.op("MatMul", nodes.constant(across), cells))
    return nodes.op("Reshape", cells, nodes.constant([1, size.height, size.width, 3]))


def _answers(
    nodes: _Nodes, depth: ir.Value, log_scale: ir.Value, scale: ir.Value, framing: Framing, settings: FullFrame
) -> list[ir.Value]:
    """Depth in metres, confidence, and the points: what `FramePath.to_estimate` makes of the network's outputs."""
    op, constant = nodes.op, nodes.constant
    one, nan = constant(np.float32(1)), constant(np.float32(np.nan))
    metres = op("Mul", depth, scale)
    possible = op("And", op("Greater", metres, constant(np.float32(0))), op("Less", metres, constant(np.float32(1e30))))
    metres = op("Where", possible, metres, one)
    wrong = op("Not", possible)
    if settings.flying_pixel_threshold > 0:
        inverse = op("Div", one, metres)
        steepest = op("Mul", op("Max", _change(nodes, inverse, 2), _change(nodes, inverse, 1)), metres)
        limit = constant(np.float32(2 * settings.flying_pixel_threshold))
        wrong = op("Or", wrong, op("Greater", steepest, limit))
    certainty = op("Clip", op("Neg", log_scale), constant(np.float32(-40)), constant(np.float32(40)))
    certainty = op("Mul", op("Exp", certainty), constant(np.float32(-math.log(CONFIDENCE_FACTOR))))
    certainty = op("Sub", one, op("Exp", certainty))
    # NaN must spread to every pixel it is mixed into, and mixing does that to a flag without asking how NaN is handled.
    unknown = _to_image(nodes, op("Cast", wrong, to=ir.DataType.FLOAT), framing, outside=1.0)
    unknown = op("Greater", unknown, constant(np.float32(0)))
    metres = _to_image(nodes, metres, framing, outside=1.0)
    near = op("Less", metres, constant(np.float32(settings.min_depth)))
    unknown = op("Or", unknown, near)
    far = op("Greater", metres, constant(np.float32(settings.max_depth)))
    metres = op("Where", unknown, nan, op("Where", far, constant(np.float32(np.inf)), metres))
    certainty = op("Where", unknown, constant(np.float32(0)), _to_image(nodes, certainty, framing, outside=0.0))
    shape = (1, settings.camera.height, settings.camera.width)
    kind = ir.DataType.FLOAT16 if settings.half else ir.DataType.FLOAT
    outputs = [_named(op("Cast", metres, to=kind), "depth", kind, shape)]
    outputs.append(_named(op("Cast", certainty, to=kind), "confidence", kind, shape))
    if settings.points:
        x, y = settings.camera.ray_slopes()
        z = op("Where", op("Or", unknown, far), nan, metres)
        sides = [op("Mul", z, constant(x[None, None, :])), op("Mul", z, constant(y[None, :, None])), z]
        last = constant([-1])
        points = op("Concat", *(op("Unsqueeze", side, last) for side in sides), axis=-1)
        outputs.append(_named(points, "points", ir.DataType.FLOAT, (*shape, 3)))
    return outputs


def _change(nodes: _Nodes, inverse: ir.Value, axis: int) -> ir.Value:
    """The absolute difference of a pixel's two neighbours along an axis of [1, h, w]; 0 at the border."""

    def part(start: int, end: int) -> ir.Value:
        return nodes.op("Slice", inverse, *(nodes.constant([value]) for value in (start, end, axis)))

    difference = nodes.op("Abs", nodes.op("Sub", part(2, np.iinfo(np.int32).max), part(0, -2)))
    border = [0] * 6
    border[axis] = border[axis + 3] = 1
    return nodes.op("Pad", difference, nodes.constant(border), nodes.constant(np.float32(0)))


def _to_image(nodes: _Nodes, plane: ir.Value, framing: Framing, outside: float) -> ir.Value:
    """[1, H, W]: what `Framing.to_image` makes of [1, h, w]."""
    window, (width, height) = framing.source, framing.image_size
    sizes = nodes.constant([1, 1, window.height, window.width])
    channel = nodes.constant([1])
    answer = nodes.op(
        "Resize",
        nodes.op("Unsqueeze", plane, channel),
        None,
        None,
        sizes,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    answer = nodes.op("Squeeze", answer, channel)
    below, right = height - window.y - window.height, width - window.x - window.width
    if (window.width, window.height) != (width, height):
        border = nodes.constant([0, window.y, window.x, 0, below, right])
        answer = nodes.op("Pad", answer, border, nodes.constant(np.float32(outside)))
    return answer


class _Nodes:
    """New nodes of a graph, to be put before or after its own."""

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph, self.prefix = graph, prefix
        self.made: list[ir.Node] = []
        self.constants = 0

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: ir.DataType | int | str) -> ir.Value:
        """The one output of a new node."""
        node = ir.node(kind, list(inputs), attributes=attributes, name=f"{self.prefix}_{len(self.made)}_{kind}")
        node.outputs[0].name = f"{node.name}_output"
        self.made.append(node)
        return node.outputs[0]

    def constant(self, array: npt.ArrayLike) -> ir.Value:
        """A new initializer; integers are int64."""
        values = np.asarray(array)
        if values.dtype.kind == "i":
            values = values.astype(np.int64)
        self.constants += 1
        name = f"{self.prefix}_constant_{self.constants}"
        tensor = ir.tensor(values, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(values.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def insert_before(self, node: ir.Node) -> None:
        self.graph.insert_before(node, self.made)

    def append(self) -> None:
        self.graph.extend(self.made)


def _tensor(name: str, kind: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))


def _named(value: ir.Value, name: str, kind: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    value.name, value.dtype, value.shape = name, kind, ir.Shape(shape)
    return value

"""What can be timed without ROS: engines, other networks, the estimator, the steps of the frame path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.benchmark.create_cloud import cloud_bytes, coloured_points
from sem_depth_node.benchmark.turns import Subject
from sem_depth_node.camera import CameraModel
from sem_depth_node.engines.engine import DepthEngine, EngineOutput
from sem_depth_node.estimator import DepthEstimator
from sem_depth_node.image_decoding import ImageDecoder
from sem_depth_node.pointcloud import PointCloudBuilder
from sem_depth_node.preview import DepthPainter


@dataclass
class _Image:
    """What a decoder needs of sensor_msgs/Image."""

    width: int
    height: int
    encoding: str
    step: int
    data: bytes
    is_bigendian: int = 0


@dataclass
class _CompressedImage:
    """What a decoder needs of sensor_msgs/CompressedImage."""

    format: str
    data: bytes


def engine_subjects(engines: Sequence[DepthEngine], remark: str = "") -> list[Subject]:
    """Each of `engines` on noise of its input size; `remark` goes to their names."""
    random = np.random.default_rng(0)

    def subject(engine: DepthEngine) -> Subject:
        image = random.integers(0, 256, (engine.height, engine.width, 3), dtype=np.uint8)
        return Subject(engine.description + remark, lambda: engine.infer(image), "engine")

    return [subject(engine) for engine in engines]


def onnx_subject(path: Path, threads: int) -> Subject:
    """Any ONNX network with static input shapes, on noise, in ONNX Runtime on the CPU as our engine runs it.

    Raises:
        ValueError: the file does not load, or an input has no fixed shape or an element type that noise cannot fill.
    """
    import onnxruntime

    from sem_depth_node.engines.onnxruntime import session_options

    try:
        session = onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base below Exception
        raise ValueError(f"{path}: ONNX Runtime cannot load it ({error})") from error
    random = np.random.default_rng(0)
    feed: dict[str, NDArray[np.generic]] = {}
    for node in session.get_inputs():
        if not all(isinstance(size, int) for size in node.shape):
            raise ValueError(f"{path}: input {node.name!r} has shape {node.shape}, expected fixed sizes; export it so")
        if node.type == "tensor(float)":
            feed[node.name] = random.random(node.shape, dtype=np.float32)
        elif node.type == "tensor(uint8)":
            feed[node.name] = random.integers(0, 256, node.shape, dtype=np.uint8)
        else:
            raise ValueError(f"{path}: input {node.name!r} is {node.type}, expected tensor(float) or tensor(uint8)")
    return Subject(path.stem, lambda: session.run(None, feed), "engine")


def frame_path_subjects(estimator: DepthEstimator, camera: CameraModel) -> list[Subject]:
    """The whole estimator on an image of `camera`, and each step around the engine alone."""
    image = _picture(camera)
    path = estimator.path_for(camera)
    output = path.engine.infer(path.framing.to_engine(image))
    # Smooth depth, as a street has; the network's answer to noise may be all edges, which NaN makes cheaper.
    slope = np.linspace(60, 4, path.engine.height, dtype=np.float32)[:, None]
    output = EngineOutput(np.tile(slope, (1, path.engine.width)), output.log_scale.copy())
    depth = path.to_estimate(output, 0.0).depth.copy()

    decoder, painter = ImageDecoder(), DepthPainter()
    bgr8 = _Image(camera.width, camera.height, "bgr8", 3 * camera.width, image.tobytes())
    jpeg = _CompressedImage("jpeg", cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    preview = np.empty(image.shape, np.uint8)
    size = f"{camera.width}x{camera.height}"

    def step(name: str, run: object) -> Subject:
        assert callable(run)
        return Subject(f"{name}, {size}", run, "frame path")

    return [
        step("decode bgr8", lambda: decoder.decode(bgr8)),
        step("decode jpeg", lambda: decoder.decode_compressed(jpeg)),
        step("resize to the engine's input", lambda: path.framing.to_engine(image)),
        step("metres, validity, confidence", lambda: path.to_estimate(output, 0.0)),
        step("preview", lambda: painter.paint(depth, preview)),
        Subject(f"estimator, {size}", lambda: estimator.estimate(image, camera), "estimator"),
    ]


def cloud_subjects(camera: CameraModel) -> list[Subject]:
    """Our coloured cloud of a depth image of `camera`, and the same by numpy and `create_cloud`."""
    image = _picture(camera)
    depth = np.tile(np.linspace(100, 4, camera.height, dtype=np.float32)[:, None], (1, camera.width))
    depth[depth > 80] = np.inf
    builder = PointCloudBuilder(camera)
    out = np.empty((camera.height, camera.width, 4), np.float32)
    points = coloured_points(depth, image, camera)
    as_lists = points.tolist()
    size = f"{camera.width}x{camera.height}"
    return [
        Subject(f"coloured cloud, {size}", lambda: builder.build(depth, image, out=out), "cloud"),
        Subject("by numpy and create_cloud", lambda: cloud_bytes(coloured_points(depth, image, camera)), "cloud"),
        Subject("create_cloud alone, of an array", lambda: cloud_bytes(points), "cloud"),
        Subject("create_cloud alone, of lists of fields", lambda: cloud_bytes(as_lists), "cloud", slow=True),
    ]


def _picture(camera: CameraModel) -> NDArray[np.uint8]:
    """Something of about a photograph's detail, so that jpeg has no harder a time than on a robot."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (max(1, camera.height // 12), max(1, camera.width // 12), 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (camera.width, camera.height), interpolation=cv2.INTER_CUBIC)
    grain = random.integers(0, 24, smooth.shape)
    picture: NDArray[np.uint8] = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    return picture

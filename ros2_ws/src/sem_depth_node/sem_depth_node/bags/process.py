"""Depth for every image of a bag, without ROS: the node's estimator, as fast as the machine goes, no frame dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sem_depth_node.bad_input import BadInput, BadInputs
from sem_depth_node.bags import messages
from sem_depth_node.bags.reader import BagError, BagMessage, BagReader
from sem_depth_node.bags.streams import CameraStream
from sem_depth_node.bags.writer import BagWriter, Storage
from sem_depth_node.calibration import CalibrationReader
from sem_depth_node.camera_info import camera_from_info
from sem_depth_node.estimator import DepthEstimate, DepthEstimator
from sem_depth_node.image_decoding import ImageDecoder
from sem_depth_node.pointcloud import PointCloudBuilder
from sem_depth_node.preview import DepthPainter


@dataclass
class ProcessReport:
    """What processing a bag came to.

    Attributes:
        frames: images that got a depth image.
        bad: messages that could not be used.
        engine_seconds: of each frame, inside the engine.
        left_out: topics that were not copied, as the bag does not define their message type.
    """

    frames: int = 0
    bad: BadInputs = field(default_factory=BadInputs)
    engine_seconds: list[float] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class FrameEstimator:
    """Depth for the image messages of one camera of a bag.

    Args:
        estimator: the network.
        stream: the camera's topics; an attribute too.
        rectified: images are rectified already: P of camera_info is their K. Otherwise they are rectified here where
            camera_info has distortion.
    """

    def __init__(self, estimator: DepthEstimator, stream: CameraStream, *, rectified: bool = False) -> None:
        self._estimator = estimator
        self.stream = stream
        self._calibrations = CalibrationReader("upstream" if rectified else "here")
        self._decoder = ImageDecoder()
        self._info: Any = None

    def take_info(self, info: Any) -> None:
        """Use this camera_info from now on.

        Raises:
            BadInput: it has no usable intrinsics.
        """
        camera_from_info(info, self._calibrations.mode == "upstream")
        self._info = info

    def estimate(self, image: Any) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], DepthEstimate]:
        """Rectified RGB and depth of an image message. Both are used again by the next call.

        Raises:
            BadInput: the image is damaged, or no camera_info fits it.
        """
        decode = self._decoder.decode_compressed if self.stream.compressed else self._decoder.decode
        rgb = decode(image)
        if self._info is None:
            raise BadInput("camera_info_missing", f"no usable camera_info on {self.stream.camera_info}")
        calibration = self._calibrations.read(self._info, rgb.shape[1], rgb.shape[0])
        rgb = calibration.rectify(rgb)
        estimate = self._estimator.estimate(rgb, calibration.camera)
        if calibration.rectification is not None:
            calibration.rectification.mark_unseen(estimate.depth, estimate.confidence, estimate.camera)
        return rgb, estimate


def process_bag(
    bag: BagReader,
    frames: FrameEstimator,
    out: Path,
    *,
    storage: Storage = "mcap",
    compress: bool = True,
    force: bool = False,
    namespace: str = "",
    cloud: bool = True,
    on_frame: Callable[[], object] = lambda: None,
) -> ProcessReport:
    """Write a copy of `bag` to `out` with the outputs of the node beside the inputs.

    Outputs have the names the node publishes under: /depth/image (32FC1), /depth/camera_info, /depth/confidence,
    /depth/preview and /depth/points, with the stamp, frame and recording time of their image.

    Args:
        bag: open.
        frames: the network and the camera to process.
        out: rosbag2 folder to make.
        storage: its format.
        compress: zstd an mcap's chunks.
        force: replace an existing bag.
        namespace: put before the names of the outputs, as a node's namespace is.
        cloud: write /depth/points, by far the largest output.
        on_frame: called after every image.

    Raises:
        BagError: `bag` is damaged, has topics of the outputs' names, no image of it could be used, or `out` exists.
    """
    report = ProcessReport()
    outputs = _Outputs(f"/{namespace.strip('/')}/depth" if namespace.strip("/") else "/depth", cloud)
    if taken := sorted(set(outputs.topics) & set(bag.topics)):
        raise BagError(f"{bag.path}: it has {', '.join(taken)} already; put the outputs elsewhere with --namespace")
    with BagWriter(out, storage, compress=compress and storage == "mcap", force=force) as writer:
        copied = [topic for topic in bag.topics.values() if bag.defines(topic.type)]
        report.left_out = sorted(set(bag.topics) - {topic.name for topic in copied})
        for topic in copied:
            writer.add_topic(
                topic.name, topic.type, latched=topic.latched, qos=topic.qos, definition=bag.definition(topic.type)
            )
        try:
            # Recorders may put an image before the camera_info of the same stamp; the first one is known anyway.
            frames.take_info(bag.first(frames.stream.camera_info))
        except BadInput as problem:
            report.bad.add(problem)
        for message in bag.messages([topic.name for topic in copied]):
            writer.write_serialized(message.topic, message.time, message.data)
            try:
                if message.topic == frames.stream.camera_info:
                    frames.take_info(bag.decode(message))
                elif message.topic == frames.stream.image:
                    outputs.write(writer, bag, message, frames, report)
                    on_frame()
            except BadInput as problem:
                report.bad.add(problem)
        if report.frames == 0:
            reasons = "; ".join(report.bad.in_words())
            raise BagError(f"{bag.path}: no image on {frames.stream.image} could be used: {reasons}")
    return report


class _Outputs:
    """Makes the node's output messages from estimates."""

    def __init__(self, folder: str, cloud: bool) -> None:
        names = ("image", "camera_info", "confidence", "preview") + (("points",) if cloud else ())
        self._topic = {name: f"{folder}/{name}" for name in names}
        self._painter = DepthPainter()
        self._builder: PointCloudBuilder | None = None

    @property
    def topics(self) -> list[str]:
        """Names of all outputs."""
        return list(self._topic.values())

    def write(
        self, writer: BagWriter, bag: BagReader, message: BagMessage, frames: FrameEstimator, report: ProcessReport
    ) -> None:
        image = bag.decode(message)
        rgb, estimate = frames.estimate(image)
        head, time = image.header, message.time
        preview = np.empty((*estimate.depth.shape, 3), np.uint8)
        self._painter.paint(estimate.depth, preview)
        writer.write(self._topic["image"], time, messages.image(head, estimate.depth, "32FC1"))
        writer.write(self._topic["camera_info"], time, messages.camera_info(head, estimate.camera))
        writer.write(self._topic["confidence"], time, messages.image(head, estimate.confidence, "32FC1"))
        writer.write(self._topic["preview"], time, messages.image(head, preview, "bgr8"))
        if "points" in self._topic:
            writer.write(self._topic["points"], time, self._points(head, rgb, estimate))
        report.frames += 1
        report.engine_seconds.append(estimate.engine_seconds)

    def _points(self, head: Any, rgb: Any, estimate: DepthEstimate) -> Any:
        if self._builder is None or self._builder.camera != estimate.camera:
            self._builder = PointCloudBuilder(estimate.camera)
        height, width = estimate.depth.shape
        if rgb.shape[:2] != (height, width):
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        return messages.point_cloud(head, self._builder.build(estimate.depth, rgb), ("x", "y", "z", "rgb"))

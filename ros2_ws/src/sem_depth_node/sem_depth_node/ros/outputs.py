"""The topics the node publishes; each is computed only while somebody subscribes to it."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Float32

from sem_depth_node.camera import CameraModel
from sem_depth_node.estimator import DepthEstimate
from sem_depth_node.pointcloud import PointCloudBuilder
from sem_depth_node.preview import DepthPainter
from sem_depth_node.ros.diagnostics import FrameTiming, timing_message
from sem_depth_node.ros.messages import CloudBuffer, ImageBuffer, fill_millimetres
from sem_depth_node.ros.qos_events import NO_PUBLISHER_EVENTS

TOPICS = {
    "depth/image": Image,
    "depth/camera_info": CameraInfo,
    "depth/confidence": Image,
    "depth/points": PointCloud2,
    "depth/preview": Image,
    "depth/timing": DiagnosticArray,
    "depth/scale_check": Float32,
}
# Those that the network must run for.
FROM_DEPTH = frozenset({"depth/image", "depth/confidence", "depth/points", "depth/preview", "depth/scale_check"})

# Frames kept for subscribers that ask again. A cloud of a KITTI image takes 7.5 MB.
HISTORY_DEPTH = 5


def topic_of(camera: str, topic: str) -> str:
    """A topic of one of the node's cameras, relative to the node's namespace."""
    return f"{camera}/{topic}" if camera else topic


class DepthOutputs:
    """Publishers of all outputs, and the messages they publish, made once for a size and filled in place.

    The publishers are reliable (REP 2003); `qos_overrides.<topic>.publisher.<policy>` override it.

    Args:
        node: a lifecycle node; the publishers are silent until it is active.
        camera: put before the topics; may be empty.
        scale_check: there is a LiDAR to make `depth/scale_check` from.

    Raises:
        ValueError: an override of the QoS is wrong, or a topic's name.
    """

    def __init__(self, node: LifecycleNodeMixin, camera: str = "", scale_check: bool = False) -> None:
        self._node = node
        self._publishers: dict[str, Any] = {}
        try:
            for topic, message_type in TOPICS.items():
                if scale_check or topic != "depth/scale_check":
                    self._publishers[topic] = node.create_lifecycle_publisher(
                        message_type,
                        topic_of(camera, topic),
                        QoSProfile(depth=HISTORY_DEPTH, reliability=ReliabilityPolicy.RELIABLE),
                        event_callbacks=NO_PUBLISHER_EVENTS,
                        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                    )
        except (ValueError, RuntimeError) as error:
            self.destroy()
            name = topic_of(camera, topic)
            raise ValueError(
                f"{name} cannot be published: {error}; correct the parameters qos_overrides of it, or the camera's name"
            ) from error
        self._images: dict[str, ImageBuffer] = {}
        self._cloud: tuple[CloudBuffer, PointCloudBuilder] | None = None
        self._painter = DepthPainter()

    def wanted(self) -> set[str]:
        """Topics that have subscribers."""
        return {topic for topic, publisher in self._publishers.items() if publisher.get_subscription_count() > 0}

    def publish_camera_info(self, info: CameraInfo) -> None:
        """Publish `depth/camera_info`."""
        self._publishers["depth/camera_info"].publish(info)

    def publish_estimate(
        self,
        topics: Collection[str],
        header: Any,
        estimate: DepthEstimate,
        rgb: NDArray[np.uint8],
        depth_encoding: str,
        preview_near: float,
    ) -> float:
        """Publish what is made from an estimate.

        Args:
            topics: to publish, of `FROM_DEPTH`; others are left out.
            header: of the image.
            estimate: of the image.
            rgb: uint8 (H, W, 3), the colours of the estimate's pixels.
            depth_encoding: "32FC1" or "16UC1", of depth/image.
            preview_near: metres at the red end of depth/preview.

        Returns:
            seconds of it that went into handing messages to the middleware.
        """
        made: dict[str, ImageBuffer | CloudBuffer] = {}
        frame = header.frame_id
        if "depth/image" in topics:
            if depth_encoding == "16UC1":
                image = made["depth/image"] = self._image("depth/image", frame, estimate.camera, "16UC1", np.uint16)
                fill_millimetres(estimate.depth, image.pixels)
            else:
                image = made["depth/image"] = self._image("depth/image", frame, estimate.camera, "32FC1", np.float32)
                np.copyto(image.pixels, estimate.depth)
        if "depth/confidence" in topics:
            image = self._image("depth/confidence", frame, estimate.camera, "32FC1", np.float32)
            made["depth/confidence"] = image
            np.copyto(image.pixels, estimate.confidence)
        if "depth/preview" in topics:
            image = self._image("depth/preview", frame, estimate.camera, "bgr8", np.uint8, channels=3)
            made["depth/preview"] = image
            if self._painter.near != preview_near:
                self._painter = DepthPainter(preview_near)
            self._painter.paint(estimate.depth, image.pixels)
        if "depth/points" in topics:
            cloud, builder = self._cloud_for(frame, estimate.camera)
            builder.build(estimate.depth, rgb, out=cloud.points)
            made["depth/points"] = cloud
        # All made before the first is sent: the middleware's threads and the listeners would take the processor from
        # what is still to be made.
        start = time.perf_counter()
        for topic, buffer in made.items():
            if self._publishers[topic].is_activated:
                buffer.message.publish(self._publishers[topic], header.stamp)
        return time.perf_counter() - start

    def publish_timing(self, header: Any, timing: FrameTiming) -> None:
        """Publish `depth/timing`."""
        self._publishers["depth/timing"].publish(timing_message(header, timing))

    def publish_scale(self, factor: float) -> None:
        """Publish `depth/scale_check`: what depth must be multiplied by to agree with LiDAR."""
        self._publishers["depth/scale_check"].publish(Float32(data=factor))

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def _image(
        self, topic: str, frame: str, camera: CameraModel, encoding: str, dtype: type, channels: int = 1
    ) -> ImageBuffer:
        layout = frame, camera.height, camera.width, encoding
        buffer = self._images.get(topic)
        if buffer is None or buffer.layout != layout:
            buffer = self._images[topic] = ImageBuffer(*layout, dtype, channels)
        return buffer

    def _cloud_for(self, frame: str, camera: CameraModel) -> tuple[CloudBuffer, PointCloudBuilder]:
        if self._cloud is None or (self._cloud[0].frame_id, self._cloud[1].camera) != (frame, camera):
            self._cloud = CloudBuffer(frame, camera.height, camera.width), PointCloudBuilder(camera)
        return self._cloud

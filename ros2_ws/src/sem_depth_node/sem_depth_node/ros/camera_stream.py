"""One camera of the node: what it listens to, what it publishes, and how it is doing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sem_depth_node.estimator import DepthEstimator
from sem_depth_node.ros import diagnostics
from sem_depth_node.ros.mailbox import Mailbox, stamp_of
from sem_depth_node.ros.outputs import DepthOutputs, topic_of
from sem_depth_node.ros.parameters import Parameters
from sem_depth_node.ros.scale_check import CameraScaleCheck, LidarScans
from sem_depth_node.ros.subscription import AdaptiveSubscription, type_name
from sem_depth_node.ros.worker import FrameWalk

# Messages that may wait in the middleware: enough for a second of a camera while the processor is full, so that what is
# dropped is dropped, and counted, here.
IMAGE_QUEUE, CAMERA_INFO_QUEUE = 10, 10
# An image without camera_info is worth a word only after this long: at the start either may come first.
CAMERA_INFO_GRACE = 1.0


class CameraStream:
    """The topics `image`, `camera_info` and `depth/...` of one camera.

    The outputs exist from the start; `open` subscribes to the inputs.

    Args:
        node: the lifecycle node.
        name: of the camera, put before its topics; empty where it is the node's only one.
        estimators: of this camera alone; one, or two to publish a frame while the network runs on the next.
        parameters: called for the values of now.
        callback_group: of the inputs' callbacks; no two of them at once.
        scans: of a LiDAR to check the scale of depth against; None does not check it.

    Attributes:
        name: as given.
        faults: of this camera.
    """

    def __init__(
        self,
        node: LifecycleNodeMixin,
        name: str,
        estimators: Sequence[DepthEstimator],
        parameters: Callable[[], Parameters],
        callback_group: CallbackGroup,
        scans: LidarScans | None = None,
    ) -> None:
        self.name = name
        self._node, self._estimators, self._parameters = node, estimators, parameters
        self._callback_group = callback_group
        self._logger = node.get_logger().get_child(name) if name else node.get_logger()
        self.faults = diagnostics.FaultLog(self._logger.warning, self._logger.error)
        self.statistics = diagnostics.FrameStatistics()
        self._outputs = DepthOutputs(node, name, scale_check=scans is not None)
        self._scans = scans
        self._scale_check: CameraScaleCheck | None = None
        self._mailbox: Mailbox | None = None
        self._image: AdaptiveSubscription | None = None
        self._camera_info: AdaptiveSubscription | None = None
        self._newest_stamp = 0
        self._without_camera_info_since: float | None = None

    def open(self, mailbox: Mailbox) -> list[FrameWalk]:
        """Subscribe, put what comes into `mailbox`; returns the walks for it, one for each estimator."""
        self.statistics = diagnostics.FrameStatistics()
        self._newest_stamp, self._without_camera_info_since = 0, None
        self._mailbox = mailbox
        if self._scans is not None:
            publish = self._outputs.publish_scale
            self._scale_check = CameraScaleCheck(self._scans, publish, self._parameters, self._logger)
        walks = [
            FrameWalk(estimator, self._outputs, self._parameters, self.faults, self.statistics, self._scale_check)
            for estimator in self._estimators
        ]
        self._camera_info = AdaptiveSubscription(
            self._node,
            CameraInfo,
            topic_of(self.name, "camera_info"),
            self._on_camera_info,
            CAMERA_INFO_QUEUE,
            self._callback_group,
        )
        self._image = AdaptiveSubscription(
            self._node,
            CompressedImage if self._parameters().compressed else Image,
            topic_of(self.name, "image"),
            self._on_image,
            IMAGE_QUEUE,
            self._callback_group,
        )
        self._logger.info(f"active: image {self._image.topic_name}, camera_info {self._camera_info.topic_name}")
        return walks

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in (self._image, self._camera_info):
            if subscription is not None:
                subscription.destroy()
        self._image = self._camera_info = self._mailbox = None

    def destroy(self) -> None:
        """Unsubscribe, and destroy the publishers."""
        self.close()
        self._outputs.destroy()

    def adapt(self) -> None:
        """Follow the publishers' QoS, and notice images that stay without camera_info."""
        for subscription in (self._image, self._camera_info):
            if subscription is None:
                continue
            if change := subscription.adapt():
                self._logger.info(change)
            if subscription.other_types:
                self.faults.report("wrong_type", _wrong_type(subscription))
        mailbox, camera_info = self._mailbox, self._camera_info
        if mailbox is None or camera_info is None or not mailbox.waits_for_camera_info:
            self._without_camera_info_since = None
            return
        now = time.monotonic()
        if self._without_camera_info_since is None:
            self._without_camera_info_since = now
        elif now - self._without_camera_info_since >= CAMERA_INFO_GRACE:
            exact = " with the stamp of an image" if self._parameters().pairing == "exact" else ""
            self.faults.report(
                "no_camera_info",
                f"images come without camera_info{exact}: {camera_info.topic_name} has {camera_info.publishers} "
                "publishers; without calibration there is no metric depth",
            )

    def statuses(self) -> list[DiagnosticStatus]:
        """Entries for /diagnostics: frames, and scale where it is checked."""
        node = self._node.get_fully_qualified_name().lstrip("/")
        prefix = f"{node}: {self.name} " if self.name else f"{node}: "
        statuses = [self._frames_status(f"{prefix}frames", node)]
        if self._scale_check is not None:
            statuses.append(self._scale_check.status(f"{prefix}scale", node))
        return statuses

    def _frames_status(self, name: str, hardware: str) -> DiagnosticStatus:
        values = self.statistics.key_values()
        faults = self.faults.last
        for fault, age in faults:
            values[f"last {fault.kind}"] = f"{age:.0f} s ago: {fault.message}"
        for kind, count in self.faults.counts.items():
            values[f"count {kind}"] = str(count)
        fresh = [fault for fault, age in faults if age < diagnostics.FAULT_SHOWS]
        severe = [fault for fault in fresh if fault.severe]
        silent = self.statistics.seconds_without_image
        if severe:
            level, message = diagnostics.ERROR, f"{severe[0].kind}: {severe[0].message}"
        elif silent > self._parameters().input_timeout:
            image = self._image
            where = f"{image.topic_name} ({image.publishers} publishers)" if image is not None else "the image topic"
            level, message = diagnostics.STALE, f"no image on {where} for {silent:.1f} s"
            if image is not None and image.other_types:
                message = _wrong_type(image)
        elif fresh:
            level, message = diagnostics.WARN, f"{fresh[0].kind}: {fresh[0].message}"
        elif not self._outputs.wanted():
            level, message = diagnostics.OK, "idle: nobody subscribes to an output"
        else:
            latency = values.get("latency median (ms)")
            rate = values["output rate (Hz)"]
            level, message = diagnostics.OK, f"{rate} Hz" + (f", latency {latency} ms" if latency else "")
        return diagnostics.diagnostic_status(name, level, message, hardware, values)

    def _on_image(self, image: Any) -> None:
        mailbox = self._mailbox
        if mailbox is None:
            return
        self.statistics.arrived()
        stamp = stamp_of(image)
        if stamp < self._newest_stamp:
            back = (self._newest_stamp - stamp) / 1e9
            self.faults.report("stamp_backwards", f"image stamps jumped back by {back:.3f} s; starting over from there")
            mailbox.restart()
        self._newest_stamp = stamp
        lonely = mailbox.waits_for_camera_info
        if mailbox.put_image(image) is not None:
            self.statistics.drop("no_camera_info" if lonely else "newer_came")

    def _on_camera_info(self, camera_info: Any) -> None:
        if self._mailbox is not None:
            self._mailbox.put_camera_info(camera_info)


def _wrong_type(subscription: AdaptiveSubscription) -> str:
    found, expected = ", ".join(sorted(subscription.other_types)), type_name(subscription.message_type)
    advice = "remap it to the right topic"
    if {type_name(Image), type_name(CompressedImage)} == {found, expected}:
        advice = f"set the parameter compressed to {str(found == type_name(CompressedImage)).lower()}, or {advice}"
    return f"{subscription.topic_name} carries {found}, expected {expected}: {advice}"

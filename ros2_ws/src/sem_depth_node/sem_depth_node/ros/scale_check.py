"""Comparing the node's depth with a LiDAR while it runs."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from sem_depth_node.bad_input import BadInput
from sem_depth_node.cloud_decoding import xyz
from sem_depth_node.estimator import DepthEstimate
from sem_depth_node.lidar import remove_hidden, sparse_depth
from sem_depth_node.ros import diagnostics
from sem_depth_node.ros.mailbox import stamp_of
from sem_depth_node.ros.parameters import Parameters
from sem_depth_node.ros.subscription import AdaptiveSubscription
from sem_depth_node.ros.transforms import TransformListener
from sem_depth_node.scale_check import FRAMES, MIN_POINTS, ScaleCheck, ScaleMeasurement, measure_scale
from sem_depth_node.stamps import NANOSECONDS, nanoseconds
from sem_depth_node.transforms import TransformError

# A scan belongs to an image when it was taken within half a period of a 10 Hz scanner.
SCAN_TOLERANCE = 50_000_000  # nanoseconds
# An image waits so long, by the stamps of later ones, for a scan that comes after its depth. A scanner sends a turn
# when it is complete, 100 ms after it began.
LATEST_SCAN = 500_000_000  # nanoseconds
# Scans kept: depth of an image comes some time after it.
SCANS_KEPT = 10
# A scale further off than this is a fault to be found, not one to be made good.
LARGEST_CORRECTION = 2.0
# Diagnostics say so when nothing could be compared for this long.
SILENCE = 5.0  # seconds


class ScanNotYet(BadInput):
    """All scans that came so far are of before the image."""


@dataclass(frozen=True)
class _Image:
    """What is compared of an image; as `CameraScaleCheck.compare` has it."""

    header: Any
    estimate: DepthEstimate
    correction: float
    depth_range: tuple[float, float]

    @property
    def stamp(self) -> int:
        """Nanoseconds."""
        return nanoseconds(self.header.stamp)


class LidarScans:
    """The newest scans of a LiDAR, for all cameras of the node.

    Args:
        node: to subscribe with.
        topic: sensor_msgs/PointCloud2.
    """

    def __init__(self, node: Node, topic: str) -> None:
        self._logger = node.get_logger()
        self._node, self._topic = node, topic
        # Clouds are large and transforms many: neither is to wait for images, nor images for them.
        self._group = MutuallyExclusiveCallbackGroup()
        self._faults = diagnostics.FaultLog(self._logger.warning, self._logger.error)
        self._lock = threading.Lock()
        self._scans: deque[Any] = deque(maxlen=SCANS_KEPT)
        self._transforms: TransformListener | None = None
        self._subscription: AdaptiveSubscription | None = None

    def open(self) -> None:
        """Subscribe. Raises ValueError where the topic's name or an override of its QoS is wrong."""
        self._scans.clear()
        self._subscription = AdaptiveSubscription(
            self._node, PointCloud2, self._topic, self._add, SCANS_KEPT, self._group
        )
        self._transforms = TransformListener(self._node, self._group, self._faults)

    def points(self, frame_id: str, stamp: int) -> NDArray[np.float64]:
        """The scan nearest in time to an image, in the frame of the image.

        Args:
            frame_id: of the image.
            stamp: of the image, nanoseconds.

        Returns:
            (N, 3) metres.

        Raises:
            ScanNotYet: no scan within 50 ms has come, and none of later.
            BadInput: none has come although later ones have, there is no transform, or the scan is malformed.
        """
        subscription, transforms = self._subscription, self._transforms
        if subscription is None or transforms is None:
            raise BadInput("no_scan", f"{self._topic} is not subscribed to now")
        with self._lock:
            scan = min(self._scans, key=lambda scan: abs(stamp_of(scan) - stamp), default=None)
            later = any(stamp_of(scan) > stamp for scan in self._scans)
        topic = subscription.topic_name
        if scan is None:
            found = f", of type {', '.join(subscription.other_types)}" if subscription.other_types else ""
            raise BadInput("no_scan", f"no scan came on {topic} ({subscription.publishers} publishers{found})")
        apart = stamp_of(scan) - stamp
        if abs(apart) > SCAN_TOLERANCE:
            raise (BadInput if later else ScanNotYet)(
                "no_scan",
                f"the scan of {topic} nearest to an image is {apart / NANOSECONDS:+.3f} s from it, expected at most "
                f"{SCAN_TOLERANCE / NANOSECONDS} s",
            )
        try:
            points = xyz(scan)
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput("bad_scan", f"{topic}: {error}") from error
        try:
            matrix = transforms.lookup(frame_id, scan.header.frame_id, stamp)
        except TransformError as error:
            raise BadInput("no_transform", str(error)) from error
        return points @ matrix[:3, :3].T + matrix[:3, 3]

    def adapt(self) -> None:
        """Follow the publishers' QoS."""
        subscription = self._subscription
        if subscription is not None and (change := subscription.adapt()):
            self._logger.info(change)

    def close(self) -> None:
        """Unsubscribe."""
        for listening in (self._subscription, self._transforms):
            if listening is not None:
                listening.destroy()
        self._subscription = self._transforms = None

    def _add(self, scan: Any) -> None:
        with self._lock:
            self._scans.append(scan)


class CameraScaleCheck:
    """How far the scale of one camera's depth is off, judged by the scans.

    Args:
        scans: of the node's LiDAR.
        publish: sends the smoothed factor; called once for every measurement as soon as it is known.
        parameters: called for the values of now.
        logger: rclpy's, of the camera.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        scans: LidarScans,
        publish: Callable[[float], None],
        parameters: Callable[[], Parameters],
        logger: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scans, self._publish, self._parameters = scans, publish, parameters
        self._logger, self._clock = logger, clock
        self._faults = diagnostics.FaultLog(logger.warning, logger.error, clock)
        self._check = ScaleCheck()
        self._last: ScaleMeasurement | None = None
        self._waiting: _Image | None = None  # for its scan
        self._estimated = self._tried = self._measured = -math.inf
        self._resumed = clock()
        self._obstacle = ""
        self._applying = False

    @property
    def correction(self) -> float:
        """What depth is to be multiplied by: 1 unless applying was asked for and the factor is known and plausible."""
        factor = self._check.factor
        wanted = self._parameters().scale_check_apply and factor is not None and _plausible(factor)
        if wanted != self._applying:
            self._applying = wanted
            self._logger.info(f"depth is {'now' if wanted else 'no longer'} multiplied by the scale found by LiDAR")
        return factor if wanted and factor is not None else 1.0

    def compare(
        self, header: Any, estimate: DepthEstimate, correction: float, depth_range: tuple[float, float]
    ) -> None:
        """Compare an estimate with the scan of its time, unless the last comparison was just now.

        Where the scan has not come yet, that is done at a later call. What stands in the way is reported, and the
        estimate is left uncompared.

        Args:
            header: of the image.
            estimate: of the image.
            correction: what is multiplied into its depth already.
            depth_range: of its finite depths, metres.
        """
        now = self._clock()
        if now - self._estimated > SILENCE:
            self._resumed = now
        self._estimated = now
        image = _Image(header, estimate, correction, depth_range)
        late, self._waiting = self._waiting, None
        if late is not None and not self._measure(late) and 0 <= image.stamp - late.stamp < LATEST_SCAN:
            self._waiting = late
            return
        if now - self._tried < self._parameters().scale_check_period:
            return
        self._tried = now
        if not self._measure(image):  # the estimator writes over its depth
            self._waiting = replace(image, estimate=replace(estimate, depth=estimate.depth.copy()))

    def _measure(self, image: _Image) -> bool:
        """Whether the image is done with; False where its scan may still come."""
        estimate = image.estimate
        try:
            points = self._scans.points(image.header.frame_id, image.stamp)
            lidar = remove_hidden(sparse_depth(points, estimate.camera), estimate.camera)
            measurement = measure_scale(estimate.depth, lidar, image.depth_range)
            if measurement is None:
                raise BadInput(
                    "too_few_points",
                    f"{np.count_nonzero(lidar)} points of the scan are in the image, and fewer than {MIN_POINTS} of "
                    "them where depth was estimated, or most of these beyond its range",
                )
        except BadInput as bad:
            self._obstacle = str(bad)
            if self._silent > SILENCE:  # a scan that is late, or a transform still to come, is worth no word
                self._faults.report(f"scale_check_{bad.fault}", str(bad))
            return not isinstance(bad, ScanNotYet)
        self._last, self._measured = measurement, self._clock()
        self._check.add(measurement.log_ratio + math.log(image.correction))
        if (factor := self._check.factor) is not None:
            self._publish(factor)
        return True

    @property
    def _silent(self) -> float:
        return self._clock() - max(self._measured, self._resumed)

    def status(self, name: str, hardware: str) -> DiagnosticStatus:
        """Entry for /diagnostics: WARN where the scale is off by more than the threshold or cannot be compared.

        Args:
            name, hardware: of the entry.
        """
        parameters, factor, last = self._parameters(), self._check.factor, self._last
        values = {
            "factor": "unknown" if factor is None else f"{factor:.4f}",
            "applied": "yes" if self._applying else "no",
            "frames": f"{self._check.frames} of {FRAMES}",
        }
        if last is not None:
            values |= {
                "last frame: factor": f"{last.factor:.4f}",
                "last frame: spread of log ratios": f"{last.spread:.4f}",
                "last frame: points": str(last.points),
            }
        for kind, count in self._faults.counts.items():
            values[f"count {kind}"] = str(count)
        level = diagnostics.OK
        if self._clock() - self._estimated > SILENCE:
            message = "idle: no depth is estimated"
        elif self._silent > SILENCE:
            level, message = diagnostics.WARN, f"nothing compared for {self._silent:.0f} s: {self._obstacle}"
            if self._applying:
                message += f"; depth is still multiplied by {factor:.3f}"
        elif factor is None:
            message = "measuring"
        else:
            message = f"LiDAR says depth times {factor:.3f}"
            if abs(math.log(factor)) > math.log1p(parameters.scale_check_threshold):
                level = diagnostics.WARN
                message += (
                    f", off by more than {parameters.scale_check_threshold:.0%}: check calibration and transforms"
                )
            if self._applying:
                message += "; applied"
            elif parameters.scale_check_apply and not _plausible(factor):
                level = diagnostics.ERROR
                message += f"; not applied, because it is beyond a factor of {LARGEST_CORRECTION:g}"
        return diagnostics.diagnostic_status(name, level, message, hardware, values)


def _plausible(factor: float) -> bool:
    return 1 / LARGEST_CORRECTION <= factor <= LARGEST_CORRECTION

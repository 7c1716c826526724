"""Scoring depth against the LiDAR of a bag."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bad_input import BadInput, BadInputs
from sem_depth_node.bags.messages import depth_metres
from sem_depth_node.bags.process import FrameEstimator
from sem_depth_node.bags.reader import BagError, BagReader
from sem_depth_node.bags.streams import CAMERA_INFO, IMAGE, expect_type
from sem_depth_node.bags.transforms import transforms_of
from sem_depth_node.camera import CameraModel
from sem_depth_node.camera_info import camera_from_info
from sem_depth_node.cloud_decoding import xyz
from sem_depth_node.lidar import remove_hidden, sparse_depth
from sem_depth_node.metrics import RANGES, BinnedError, depth_metrics, evaluation_mask, mean_metrics, median_scaled
from sem_depth_node.stamps import NANOSECONDS, nanoseconds
from sem_depth_node.transforms import TransformError

# A scan belongs to an image when it was taken within half a period of a 10 Hz scanner.
SCAN_TOLERANCE = 50_000_000
JOINT_EDGES = np.geomspace(1.0, 80.0, 81)


@dataclass(frozen=True)
class Protocol:
    """What is compared with what.

    Attributes:
        crop: "garg", "eigen" or "none", of the image.
        max_depth: metres; measurements beyond it do not count, predictions are clamped to it.
        remove_hidden: leave out points that an object hides from the camera.
        median_scaling: scale each prediction to the median of its ground truth first, as methods without metric
            scale are evaluated.
    """

    crop: str = "garg"
    max_depth: float = 80.0
    remove_hidden: bool = True
    median_scaling: bool = False

    def __str__(self) -> str:
        hidden = ", points hidden from the camera removed" if self.remove_hidden else ""
        scaled = ", median-scaled" if self.median_scaling else ""
        return (
            f"LiDAR of the bag through its tf and camera_info, nearest point per pixel{hidden}; crop {self.crop}, "
            f"up to {self.max_depth:g} m; mean over frames{scaled}"
        )


@dataclass(frozen=True)
class Prediction:
    """A depth image to score.

    Attributes:
        stamp: of its image, nanoseconds.
        frame_id: the camera's optical frame.
        camera: of the depth image.
        depth: (H, W) metres, NaN unknown, +Inf beyond range.
        seconds: it took to compute, None where that is not known.
    """

    stamp: int
    frame_id: str
    camera: CameraModel
    depth: NDArray[np.float32]
    seconds: float | None = None


@dataclass(frozen=True)
class FrameScore:
    """Metrics of one frame, as `depth_metrics` names them, and the number of pixels compared."""

    stamp: int
    pixels: int
    metrics: dict[str, float]
    seconds: float | None


@dataclass
class Scores:
    """A scored run.

    Attributes:
        protocol: how it was scored.
        frames: those that had ground truth.
        ranges: errors by measured depth.
        joint: pixels by measured (rows) and predicted (columns) depth, in bins of `JOINT_EDGES` metres.
        without_scan: frames without a scan near in time.
        without_points: frames with a scan, none of whose points is in the evaluated part of the image and answered.
        bad: messages that depth could not be computed from.
    """

    protocol: Protocol
    frames: list[FrameScore] = field(default_factory=list)
    ranges: list[BinnedError] = field(default_factory=lambda: [BinnedError(low, high) for low, high in RANGES])
    joint: NDArray[np.float64] = field(default_factory=lambda: np.zeros((len(JOINT_EDGES) - 1,) * 2))
    without_scan: int = 0
    without_points: int = 0
    bad: BadInputs = field(default_factory=BadInputs)

    @property
    def mean(self) -> dict[str, float]:
        """Mean over frames of each metric."""
        return mean_metrics([frame.metrics for frame in self.frames])

    def left_out(self, lidar: str) -> str:
        """Why frames were not scored, in words; `lidar` is the topic of the scans."""
        return "".join(f"{line}; " for line in self.bad.in_words()) + (
            f"{self.without_scan} have no scan of {lidar} within {SCAN_TOLERANCE / NANOSECONDS:g} s, and of "
            f"{self.without_points} no point of the scan is where depth was answered, within {self.protocol}: are the "
            "transforms and the unit of the points right?"
        )

    def as_report(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "protocol": str(self.protocol),
            "settings": asdict(self.protocol),
            "mean": self.mean if self.frames else None,
            "frames_scored": len(self.frames),
            "frames_without_scan": self.without_scan,
            "frames_without_points": self.without_points,
            "messages_not_used": {
                fault: {"count": count, "reason": reason} for fault, (count, reason) in self.bad.by_fault.items()
            },
            "by_range": [part.summary() for part in self.ranges],
            "frames": [asdict(frame) for frame in self.frames],
        }


class LidarDepth:
    """The scans of a bag as depth images of its cameras.

    Args:
        bag: open, for as long as this is used.
        topic: of the scans (PointCloud2).
        hidden_removed: leave out points that an object hides from the camera.
        fixed_frame: a frame that does not move ("map"), to account for the vehicle's motion between scan and image;
            None takes both for simultaneous, as KITTI's ground truth does.

    Raises:
        BagError: the topic is not in the bag, or its transforms are malformed.
    """

    def __init__(
        self, bag: BagReader, topic: str, *, hidden_removed: bool = True, fixed_frame: str | None = None
    ) -> None:
        self._bag = bag
        self._topic = topic
        self._hidden_removed = hidden_removed
        self._fixed_frame = fixed_frame
        try:
            self._tree = transforms_of(bag)
        except ValueError as error:
            raise BagError(f"{bag.path}: tf: {error}") from error
        # By stamp, where each scan is in the bag. A scan without a stamp is taken to be from when it was recorded.
        self._scans = sorted(
            (nanoseconds(bag.decode(message).header.stamp) or message.time, message.time)
            for message in bag.messages([topic])
        )

    def at(self, stamp: int, frame_id: str, camera: CameraModel) -> NDArray[np.float32] | None:
        """Ground truth for an image: float32 (H, W) metres along Z, 0 where nothing was measured.

        Args:
            stamp: of the image, nanoseconds.
            frame_id: its optical frame.
            camera: its camera.

        Returns:
            None where no scan was taken within 50 ms.

        Raises:
            BagError: the tf of the bag does not connect LiDAR and camera, or the scan is malformed.
        """
        if not self._scans:
            return None
        place = bisect.bisect_left(self._scans, (stamp, 0))
        near = self._scans[max(0, place - 1) : place + 1]
        taken, recorded = min(near, key=lambda scan: abs(scan[0] - stamp))
        if abs(taken - stamp) > SCAN_TOLERANCE:
            return None
        cloud = self._bag.decode(next(self._bag.messages([self._topic], recorded, recorded + 1)))
        try:
            points = xyz(cloud)
            matrix = self._camera_from_lidar(frame_id, stamp, cloud.header.frame_id, taken)
        except (ValueError, KeyError, TypeError, TransformError) as error:
            raise BagError(f"{self._bag.path}: topic {self._topic}: {error}") from error
        depth = sparse_depth(points @ matrix[:3, :3].T + matrix[:3, 3], camera)
        return remove_hidden(depth, camera) if self._hidden_removed else depth

    def _camera_from_lidar(self, camera: str, stamp: int, lidar: str, taken: int) -> NDArray[np.float64]:
        if self._fixed_frame is None:
            return self._tree.lookup(camera, lidar, stamp)
        fixed = self._tree.lookup(self._fixed_frame, lidar, taken)
        return np.asarray(self._tree.lookup(camera, self._fixed_frame, stamp) @ fixed)


def recorded_predictions(bag: BagReader, image: str, camera_info: str) -> Iterator[Prediction]:
    """The depth images that a bag holds.

    Args:
        bag: open.
        image: topic of the depth images (32FC1 or 16UC1).
        camera_info: topic of their calibration.

    Raises:
        BagError: a topic is missing, or a message of it is malformed.
    """
    expect_type(bag, image, (IMAGE,))
    expect_type(bag, camera_info, (CAMERA_INFO,))
    try:
        infos = {
            nanoseconds(info.header.stamp): camera_from_info(info)
            for info in (bag.decode(message) for message in bag.messages([camera_info]))
        }
    except BadInput as error:
        raise BagError(f"{bag.path}: topic {camera_info}: {error}") from error
    camera = next(iter(infos.values()))
    for message in bag.messages([image]):
        decoded = bag.decode(message)
        camera = infos.get(nanoseconds(decoded.header.stamp), camera)
        stamp = nanoseconds(decoded.header.stamp) or message.time
        try:
            depth = depth_metres(decoded)
        except ValueError as error:
            raise BagError(f"{bag.path}: topic {image}: {error}") from error
        if depth.shape != (camera.height, camera.width):
            raise BagError(
                f"{bag.path}: topic {image} has images of {depth.shape[1]}x{depth.shape[0]}, {camera_info} is for "
                f"{camera.width}x{camera.height}"
            )
        yield Prediction(stamp, decoded.header.frame_id, camera, depth)


def computed_predictions(bag: BagReader, frames: FrameEstimator) -> Iterator[Prediction | BadInput]:
    """Depth of every image of a bag's camera, computed now. The arrays are used again by the next one.

    In place of a message that cannot be used comes what is wrong with it.
    """
    stream = frames.stream
    with contextlib.suppress(BadInput):  # told when its turn comes
        frames.take_info(bag.first(stream.camera_info))
    for message in bag.messages([stream.image, stream.camera_info]):
        decoded = bag.decode(message)
        stamp = nanoseconds(decoded.header.stamp) or message.time
        try:
            if message.topic == stream.camera_info:
                frames.take_info(decoded)
                continue
            _, estimate = frames.estimate(decoded)
        except BadInput as problem:
            yield BadInput(problem.fault, f"{message.topic} at {stamp / NANOSECONDS:.6f}: {problem}")
            continue
        yield Prediction(stamp, decoded.header.frame_id, estimate.camera, estimate.depth, estimate.engine_seconds)


def score(
    predictions: Iterable[Prediction | BadInput],
    truth: LidarDepth,
    protocol: Protocol,
    on_frame: Callable[[], object] = lambda: None,
) -> Scores:
    """Compare predictions with ground truth.

    Args:
        predictions: each is read before the next is asked for; what is wrong with a message is counted.
        truth: what was measured.
        protocol: how they are compared.
        on_frame: called after every prediction.

    Raises:
        BagError: ground truth cannot be made.
    """
    scores = Scores(protocol)
    for prediction in predictions:
        if isinstance(prediction, BadInput):
            scores.bad.add(prediction)
        else:
            _score_one(prediction, truth, scores)
        on_frame()
    return scores


def _score_one(prediction: Prediction, truth: LidarDepth, scores: Scores) -> None:
    protocol = scores.protocol
    measured = truth.at(prediction.stamp, prediction.frame_id, prediction.camera)
    if measured is None:
        scores.without_scan += 1
        return
    depth = prediction.depth
    mask = evaluation_mask(measured, protocol.crop, max_depth=protocol.max_depth)
    answered = mask & ~np.isnan(depth)
    if not (mask & np.isfinite(depth) if protocol.median_scaling else answered).any():
        scores.without_points += 1
        return
    if protocol.median_scaling:
        depth = median_scaled(depth, measured, mask)
    metrics = depth_metrics(depth, measured, mask, max_depth=protocol.max_depth)
    scores.frames.append(FrameScore(prediction.stamp, int(answered.sum()), metrics, prediction.seconds))
    clamped = np.clip(depth[answered].astype(np.float64), 1e-3, protocol.max_depth)
    true = measured[answered].astype(np.float64)
    for part in scores.ranges:
        part.add(true, clamped, true)
    scores.joint += np.histogram2d(true, clamped, bins=(JOINT_EDGES, JOINT_EDGES))[0]

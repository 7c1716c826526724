"""What a segment of the Waymo Open Dataset holds, whichever format it is stored in.

Frames of reference are Waymo's own: the vehicle's is x forward, y left, z up, from the middle of the rear axle; a
camera's is alike, x along the optical axis. The world's is fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel

# CameraName.Name and LaserName.Name of dataset.proto.
CAMERAS = {1: "front", 2: "front_left", 3: "front_right", 4: "side_left", 5: "side_right"}
LASERS = {1: "top", 2: "front", 3: "side_left", 4: "side_right", 5: "rear"}

# The only laser that turns so slowly that its points need a pose each; the others' are stored as if taken at once.
LASER_WITH_POSES = "top"

Matrix = NDArray[np.float64]


class WaymoError(Exception):
    """A data set that cannot be converted; the message names the file, what was found and what was expected."""


@dataclass(frozen=True)
class WaymoCamera:
    """Calibration of a camera.

    Attributes:
        model: intrinsics in this package's pixel convention.
        vehicle_from_camera: (4, 4), from the camera's frame (x forward, y left, z up).
    """

    model: CameraModel
    vehicle_from_camera: Matrix


@dataclass(frozen=True)
class WaymoLaser:
    """Calibration of a laser.

    Attributes:
        vehicle_from_laser: (4, 4).
        inclinations: (H,) radians of the range image's rows from the lowest up, or (2,) their limits with
            `uniform`.
        uniform: `inclinations` holds the lower and the upper limit of rows that are evenly spread.
    """

    vehicle_from_laser: Matrix
    inclinations: NDArray[np.float64]
    uniform: bool


@dataclass(frozen=True)
class WaymoImage:
    """One camera's image.

    Attributes:
        jpeg: the file's bytes.
        time: of the pose, nanoseconds since the epoch: about when the middle of the image was exposed.
        world_from_vehicle: (4, 4), the pose at `time`.
    """

    jpeg: bytes
    time: int
    world_from_vehicle: Matrix


@dataclass(frozen=True)
class WaymoScan:
    """One laser's range images of one turn.

    Attributes:
        returns: one or two (H, W, 4) images: range (m; not above 0 where nothing came back), intensity, elongation,
            whether in a no-label zone.
        poses: (H, W, 6) of each pixel: roll, pitch, yaw (radians), x, y, z (m) of the vehicle in the world. None
            where all points are stored in the vehicle frame at the frame's pose.
    """

    returns: Sequence[NDArray[np.float32]]
    poses: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class WaymoFrame:
    """What was measured during one turn of the top laser.

    Attributes:
        time: when the turn began, nanoseconds since the epoch.
        world_from_vehicle: (4, 4), the pose at some time around the middle of the turn.
        images, scans: by the names of the cameras and lasers.
    """

    time: int
    world_from_vehicle: Matrix | None
    images: Mapping[str, WaymoImage] = field(default_factory=dict)
    scans: Mapping[str, WaymoScan] = field(default_factory=dict)


class WaymoSegment(Protocol):
    """A drive of about 20 s.

    Attributes:
        name: of the segment's context.
        cameras, lasers: calibrations by name.
    """

    name: str
    cameras: Mapping[str, WaymoCamera]
    lasers: Mapping[str, WaymoLaser]

    def frames(self) -> Iterator[WaymoFrame]:
        """The frames in order of time.

        Raises:
            WaymoError: a file is damaged or not what it should be.
        """


def camera_model(
    width: int, height: int, f_u: float, f_v: float, c_u: float, c_v: float, distortion: Sequence[float]
) -> CameraModel:
    """The camera model of Waymo's intrinsics.

    Waymo's pixel coordinates count from the left edge of the first pixel, ours from its centre.

    Args:
        width, height: pixels.
        f_u, f_v, c_u, c_v: pixels.
        distortion: k1, k2, p1, p2, k3, defined as in OpenCV.
    """
    return CameraModel(width, height, f_u, f_v, c_u - 0.5, c_v - 0.5, "plumb_bob", tuple(distortion))

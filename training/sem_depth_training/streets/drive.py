"""A drive with a camera and a LiDAR through a street: the plan of what is seen when, and from where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .layout import StreetLayout, make_layout
from .road import Style
from .views import View, optical_pose
from .weather import Weather

BASE_FRAME, LIDAR_FRAME, CAMERA_FRAME, ODOM_FRAME = "base_link", "lidar", "camera_optical", "odom"
FIRST_STAMP_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class DrivePlan:
    """What is driven and what it is seen with; the defaults are the committed demo drive.

    Camera and LiDAR sit as on KITTI's car: the LiDAR 1.73 m above the road, the camera 0.27 m in front of it and
    0.08 m below. ``base_link`` is on the road below the LiDAR.
    """

    seed: int = 0
    style: Style = "city"
    frames: int = 60
    rate: float = 10.0  # Hz
    speed: float = 8.5  # m/s
    width: int = 960
    height: int = 320
    focal: float = 721.5377 * 960 / 1242
    cx: float = (609.5593 + 0.5) * 960 / 1242 - 0.5
    cy: float = 147.0
    jpeg_quality: int = 90
    exposure: float = 1.15  # one for the whole drive, as a camera's held exposure
    lidar_half_angle: float = 50.0  # degrees to both sides of straight ahead; the rest is left out for size
    lidar_columns: int = 200  # over that sector
    # A scanner's rays lie a little off its nominal angles: here 0.9 degrees in azimuth, 0.4 of a ring in elevation
    lidar_zero: tuple[float, float] = (0.008808937198067687, -0.013020833333333334)
    curvature: float = -1 / 420  # 1/m

    def layout(self) -> StreetLayout:
        return make_layout(self.seed, self.style, length=380.0, ego_speed=self.speed, curvature=self.curvature)

    def weather(self) -> Weather:
        return Weather("sun", np.radians(42.0), np.radians(200.0), 0.35, 9000.0)

    def stamp(self, frame: int) -> int:
        """Nanoseconds."""
        return FIRST_STAMP_NS + round(frame * 1e9 / self.rate)

    def base_pose(self, layout: StreetLayout, frame: int) -> npt.NDArray[np.float64]:
        """World from base_link: along the lane, with a little sway of the suspension."""
        time = frame / self.rate
        station = self.speed * time
        pose = np.eye(4)
        yaw = layout.road.heading(station)
        pitch = layout.road.grade(station) + 0.0025 * np.sin(5.1 * time)
        optical = optical_pose(layout.road.points(station, layout.ego_offset), yaw, pitch, 0.002 * np.sin(3.7 * time))
        # Columns of the optical frame are right, down, forward; of base_link forward, left, up.
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = optical[:3, 2], -optical[:3, 0], -optical[:3, 1]
        pose[:3, 3] = optical[:3, 3]
        return pose

    @property
    def base_from_lidar(self) -> npt.NDArray[np.float64]:
        pose = np.eye(4)
        pose[2, 3] = 1.73
        return pose

    @property
    def base_from_camera(self) -> npt.NDArray[np.float64]:
        pose = np.eye(4)
        pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
        pose[:3, 3] = [0.27, 0.0, 1.65]
        return pose

    def view(self, layout: StreetLayout, frame: int) -> View:
        pose = self.base_pose(layout, frame) @ self.base_from_camera
        return View(self.width, self.height, self.focal, self.cx, self.cy, pose)

"""The GPS/IMU unit of KITTI's car (OXTS RT 3003)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys.stores import ros2_jazzy as ros

from sem_depth_node.bags import messages
from sem_depth_node.bags.kitti.calibration import IMU_IN_BASE, Matrix, inverse
from sem_depth_node.bags.kitti.files import read_table
from sem_depth_node.bags.kitti.sequence import BASE, IMU, MAP, Timed
from sem_depth_node.transforms import quaternion

IMU_TOPIC, FIX_TOPIC, ODOMETRY_TOPIC = "/kitti/oxts/imu", "/kitti/oxts/gps/fix", "/kitti/oxts/odometry"

_EARTH_RADIUS = 6378137.0

_OXTS_FIELDS = (
    *("lat", "lon", "alt", "roll", "pitch", "yaw", "vn", "ve", "vf", "vl", "vu", "ax", "ay", "az", "af", "al", "au"),
    *("wx", "wy", "wz", "wf", "wl", "wu", "pos_accuracy", "vel_accuracy"),
    *("navstat", "numsats", "posmode", "velmode", "orimode"),
)


@dataclass(frozen=True)
class Oxts:
    """One line of the GPS/IMU unit."""

    values: Mapping[str, float]

    @classmethod
    def read(cls, file: Path) -> Oxts:
        """From a file of oxts/data.

        Raises:
            KittiError: it does not hold the 30 numbers of dataformat.txt.
        """
        numbers = read_table(file, len(_OXTS_FIELDS))[0]
        return cls(dict(zip(_OXTS_FIELDS, numbers.tolist(), strict=True)))

    @property
    def rotation(self) -> Matrix:
        """From the IMU's axes (forward, left, up) to east, north, up."""
        return _euler(self.values["roll"], self.values["pitch"], self.values["yaw"])

    @property
    def position(self) -> Matrix:
        """Latitude and longitude in degrees, altitude in metres."""
        return np.array([self.values["lat"], self.values["lon"], self.values["alt"]])

    def pose(self, origin: Matrix) -> Matrix:
        """(4, 4) of the IMU in an east-north-up frame at `origin`: Mercator, scaled to its latitude, as the development
        kit does it (convertOxtsToPose)."""
        scale = np.cos(np.radians(origin[0]))

        def mercator(position: Matrix) -> Matrix:
            east = scale * _EARTH_RADIUS * np.radians(position[1])
            north = scale * _EARTH_RADIUS * np.log(np.tan(np.pi / 4 + np.radians(position[0]) / 2))
            return np.array([east, north, position[2]])

        pose = np.eye(4)
        pose[:3, :3] = self.rotation
        pose[:3, 3] = mercator(self.position) - mercator(origin)
        return pose

    def messages(self, stamp: int, origin: Matrix) -> Iterator[Timed]:
        """Imu, NavSatFix, Odometry and the car's pose on /tf."""
        v = self.values
        head = messages.header(stamp, IMU)
        pose = self.pose(origin)
        orientation = ros.geometry_msgs__msg__Quaternion(*quaternion(pose[:3, :3]))
        rates = _vector(v["wx"], v["wy"], v["wz"])
        unknown = np.zeros(9)
        yield Timed(
            stamp,
            IMU_TOPIC,
            ros.sensor_msgs__msg__Imu(
                header=head,
                orientation=orientation,
                orientation_covariance=unknown,
                angular_velocity=rates,
                angular_velocity_covariance=unknown,
                linear_acceleration=_vector(v["ax"], v["ay"], v["az"]),
                linear_acceleration_covariance=unknown,
            ),
        )
        yield Timed(
            stamp,
            FIX_TOPIC,
            ros.sensor_msgs__msg__NavSatFix(
                header=head,
                status=ros.sensor_msgs__msg__NavSatStatus(status=0, service=1),  # type: ignore[arg-type]  # a fix, by GPS
                latitude=v["lat"],
                longitude=v["lon"],
                altitude=v["alt"],
                position_covariance=(np.eye(3) * v["pos_accuracy"] ** 2).ravel(),
                position_covariance_type=1,  # approximated
            ),
        )
        velocity = pose[:3, :3].T @ np.array([v["ve"], v["vn"], v["vu"]])
        yield Timed(
            stamp,
            ODOMETRY_TOPIC,
            ros.nav_msgs__msg__Odometry(
                header=messages.header(stamp, MAP),
                child_frame_id=IMU,
                pose=ros.geometry_msgs__msg__PoseWithCovariance(
                    pose=ros.geometry_msgs__msg__Pose(
                        position=ros.geometry_msgs__msg__Point(*pose[:3, 3].tolist()), orientation=orientation
                    ),
                    covariance=np.zeros(36),
                ),
                twist=ros.geometry_msgs__msg__TwistWithCovariance(
                    twist=ros.geometry_msgs__msg__Twist(linear=_vector(*velocity.tolist()), angular=rates),
                    covariance=np.zeros(36),
                ),
            ),
        )
        base = pose @ inverse(IMU_IN_BASE)
        yield Timed(stamp, "/tf", messages.tf(messages.transform(stamp, MAP, BASE, base)))


def _vector(x: float, y: float, z: float) -> Any:
    return ros.geometry_msgs__msg__Vector3(x=x, y=y, z=z)


def _euler(roll: float, pitch: float, yaw: float) -> Matrix:
    """Rz(yaw) Ry(pitch) Rx(roll)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )

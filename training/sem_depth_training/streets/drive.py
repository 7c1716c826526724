"""The demo drive: a car with a camera and a LiDAR through a street, as a rosbag2 (mcap)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

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


@dataclass(frozen=True)
class DriveFrame:
    """One rendered moment: display image uint8 (H, W, 3) RGB and LiDAR points float32 (n, 4) x, y, z, intensity."""

    image: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]


def quaternion(rotation: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """x, y, z, w of a rotation matrix (Shepperd's method)."""
    m = rotation
    choices = np.array([m[0, 0], m[1, 1], m[2, 2], np.trace(m)])
    largest = int(np.argmax(choices))
    q = np.empty(4)
    if largest == 3:
        q[:] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + choices[3]
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q[i], q[j], q[k] = 1 + 2 * m[i, i] - choices[3], m[j, i] + m[i, j], m[k, i] + m[i, k]
        q[3] = m[k, j] - m[j, k]
    x, y, z, w = q / np.linalg.norm(q)
    return float(x), float(y), float(z), float(w)


class DriveBag:
    """Writes a drive as rosbag2 (format 9, mcap, zstd). Use as a context manager; the folder must not exist."""

    def __init__(self, folder: Path, plan: DrivePlan, layout: StreetLayout) -> None:
        self.plan, self.layout = plan, layout
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> DriveBag:
        self._writer.open()
        for topic, kind in (
            ("/camera/image/compressed", "sensor_msgs/msg/CompressedImage"),
            ("/camera/camera_info", "sensor_msgs/msg/CameraInfo"),
            ("/lidar/points", "sensor_msgs/msg/PointCloud2"),
            ("/tf", "tf2_msgs/msg/TFMessage"),
            ("/tf_static", "tf2_msgs/msg/TFMessage"),
        ):
            durability = QosDurability.TRANSIENT_LOCAL if topic == "/tf_static" else QosDurability.VOLATILE
            qos = Qos(
                QosHistory.KEEP_LAST, 10, QosReliability.RELIABLE, durability, QosTime(0, 0), QosTime(0, 0),
                QosLiveliness.AUTOMATIC, QosTime(0, 0), avoid_ros_namespace_conventions=False,
            )  # fmt: skip
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types, offered_qos_profiles=[qos]
            )
        plan = self.plan
        fixed = [
            self._transform(0, BASE_FRAME, LIDAR_FRAME, plan.base_from_lidar),
            self._transform(0, BASE_FRAME, CAMERA_FRAME, plan.base_from_camera),
        ]
        self._write("/tf_static", 0, self._message("tf2_msgs/msg/TFMessage", transforms=fixed))
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def add(self, frame: int, content: DriveFrame) -> None:
        plan = self.plan
        pose = plan.base_pose(self.layout, frame)
        self._write(
            "/tf",
            frame,
            self._message("tf2_msgs/msg/TFMessage", transforms=[self._transform(frame, ODOM_FRAME, BASE_FRAME, pose)]),
        )
        self._write("/lidar/points", frame, self._cloud(frame, content.points))
        self._write("/camera/camera_info", frame, self._camera_info(frame))
        done, jpeg = cv2.imencode(".jpg", content.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, plan.jpeg_quality])
        if not done:
            raise OSError(f"frame {frame}: the image cannot be encoded as JPEG")
        image = self._message(
            "sensor_msgs/msg/CompressedImage",
            header=self._header(frame, CAMERA_FRAME),
            format="jpeg",
            data=jpeg.ravel(),
        )
        self._write("/camera/image/compressed", frame, image)

    def _write(self, topic: str, frame: int, message: Any) -> None:
        connection = self._connections[topic]
        self._writer.write(connection, self.plan.stamp(frame), self._types.serialize_cdr(message, connection.msgtype))

    def _message(self, kind: str, **fields: Any) -> Any:
        return self._types.types[kind](**fields)

    def _header(self, frame: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(self.plan.stamp(frame), 10**9)
        stamp = self._message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _transform(self, frame: int, parent: str, child: str, pose: npt.NDArray[np.float64]) -> Any:
        x, y, z = (float(value) for value in pose[:3, 3])
        qx, qy, qz, qw = quaternion(pose[:3, :3])
        transform = self._message(
            "geometry_msgs/msg/Transform",
            translation=self._message("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=self._message("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
        )
        return self._message(
            "geometry_msgs/msg/TransformStamped",
            header=self._header(frame, parent),
            child_frame_id=child,
            transform=transform,
        )

    def _cloud(self, frame: int, points: npt.NDArray[np.float32]) -> Any:
        fields = [
            self._message("sensor_msgs/msg/PointField", name=name, offset=4 * i, datatype=7, count=1)  # 7: FLOAT32
            for i, name in enumerate(("x", "y", "z", "intensity"))
        ]
        return self._message(
            "sensor_msgs/msg/PointCloud2",
            header=self._header(frame, LIDAR_FRAME),
            height=1,
            width=len(points),
            fields=fields,
            is_bigendian=False,
            point_step=16,
            row_step=16 * len(points),
            data=np.ascontiguousarray(points, "<f4").view(np.uint8).ravel(),
            is_dense=True,
        )

    def _camera_info(self, frame: int) -> Any:
        plan = self.plan
        k = np.array([plan.focal, 0, plan.cx, 0, plan.focal, plan.cy, 0, 0, 1.0])
        p = np.array([plan.focal, 0, plan.cx, 0, 0, plan.focal, plan.cy, 0, 0, 0, 1.0, 0])
        whole = self._message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._message(
            "sensor_msgs/msg/CameraInfo",
            header=self._header(frame, CAMERA_FRAME),
            height=plan.height,
            width=plan.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=k,
            r=np.eye(3).ravel(),
            p=p,
            binning_x=0,
            binning_y=0,
            roi=whole,
        )


def write_drive(folder: Path, plan: DrivePlan, rendered: Path) -> None:
    """Gather the frames that the workers left in ``rendered`` into a bag at ``folder``, which must not exist."""
    layout = plan.layout()
    with DriveBag(folder, plan, layout) as bag:
        for frame in range(plan.frames):
            with np.load(rendered / f"{frame:04d}.npz") as content:
                bag.add(frame, DriveFrame(content["image"], content["points"]))
    (folder / "LICENCE.md").write_text(licence_note(plan, layout))


def licence_note(plan: DrivePlan, layout: StreetLayout) -> str:
    """Whose the recording is, whose models it shows, and how to render it again."""
    shown = {placed.model for placed in layout.models}
    models = "\n".join(sorted(f"- {model.name}: {model.author}, {model.licence}" for model in shown))
    return f"""# Licence of this drive

A rendered drive through a street that does not exist: camera, calibration, simulated LiDAR and poses,
{plan.frames} frames at {plan.rate:g} Hz. The sem_depth project dedicates the recording to the public domain under
[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/), as far as the rights are the project's.

It shows these 3D models of Debian's package sweethome3d-furniture. CC BY asks to name their authors, and so should you
when you show it:

{models}

Rendered with Blender 4.5.15 (see docs/streets.md); the same again, bit for bit:

    sem-depth-train render-drive --seed {plan.seed} --out drive
"""

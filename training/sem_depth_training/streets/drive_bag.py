"""The recording of a drive: a rosbag2 (format 9, mcap) with images, calibration, LiDAR and transforms."""

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

from .drive import BASE_FRAME, CAMERA_FRAME, LIDAR_FRAME, ODOM_FRAME, DrivePlan
from .layout import StreetLayout


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

Rendered with Blender 4.5.15 (see docs/streets.md); the same street, camera and depth
again, and pictures up to the noise of the renderer:

    sem-depth-train render-drive --seed {plan.seed} --out drive
"""

"""Small real recordings in every format: a camera, its calibration, a LiDAR and the transforms between them.

The scene is a wall that fills the view, `WALL` metres ahead of the camera, seen by a LiDAR half a metre above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from mcap.reader import make_reader
from mcap.writer import Writer
from numpy.typing import NDArray
from rosbags import rosbag1, rosbag2
from rosbags.interfaces import Qos
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from sem_depth_node.bags import messages
from sem_depth_node.bags.writer import LATCHED_QOS, RELIABLE_QOS, TYPESTORE
from sem_depth_node.camera import CameraModel

CAMERA = CameraModel(96, 32, fx=100.0, fy=100.0, cx=47.5, cy=15.5)
WALL = 10.0
FRAMES = 5
PERIOD = 100_000_000
BEGIN = 1_317_042_000_123_456_789

IMAGE = "/camera/image"
COMPRESSED = "/camera/image/compressed"
INFO = "/camera/camera_info"
LIDAR = "/lidar/points"
TF_STATIC = "/tf_static"

# The LiDAR's frame is x forward, y left, z up, half a metre above the camera.
LIDAR_IN_CAMERA = np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.5], [1.0, 0.0, 0.0, 0.0], [0, 0, 0, 1]])


def picture(frame: int) -> NDArray[np.uint8]:
    """An RGB image (32, 96, 3) of one colour. The tiny bundle reads depth from its red: here `WALL` metres."""
    return np.full((CAMERA.height, CAMERA.width, 3), (19, 60, frame), np.uint8)


def wall_points() -> NDArray[np.float32]:
    """Points (N, 4) on the wall in the LiDAR's frame, through every other pixel of every fourth row."""
    x, y = CAMERA.ray_slopes()
    u, v = np.meshgrid(x[::2] * WALL, y[::4] * WALL)
    camera = np.stack([u.ravel(), v.ravel(), np.full(u.size, WALL), np.ones(u.size)])
    lidar: NDArray[np.float64] = (np.linalg.inv(LIDAR_IN_CAMERA) @ camera).T
    lidar[:, 3] = 0.5  # intensity
    return lidar.astype(np.float32)


def recorded(*, compressed: bool = False, lidar: bool = True) -> Iterator[tuple[str, int, Any]]:
    """Topic, recording time and message of the whole drive, in order; a message is recorded 1 ms after its stamp."""
    yield TF_STATIC, BEGIN, messages.tf(messages.transform(BEGIN, "camera", "lidar", LIDAR_IN_CAMERA))
    for frame in range(FRAMES):
        stamp = BEGIN + frame * PERIOD
        head = messages.header(stamp, "camera")
        if compressed:
            ok, png = cv2.imencode(".png", picture(frame)[..., ::-1])
            assert ok
            yield COMPRESSED, stamp + 1_000_000, messages.compressed_image(head, png.tobytes(), "png")
        else:
            yield IMAGE, stamp + 1_000_000, messages.image(head, picture(frame), "rgb8")
        yield INFO, stamp + 1_000_000, messages.camera_info(head, CAMERA)
        if lidar:
            yield LIDAR, stamp + 1_000_000, messages.point_cloud(messages.header(stamp, "lidar"), wall_points())


def write_rosbag2(
    path: Path,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    compression: Literal["none", "file", "message", "storage"] = "none",
    qos: dict[str, Qos] | None = None,
    **scene: bool,
) -> Path:
    """The drive as a rosbag2 folder."""
    writer = rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin[storage.upper()])
    writer.set_compression(rosbag2.CompressionMode[compression.upper()], rosbag2.CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, time, message in recorded(**scene):
            if topic not in connections:
                default = LATCHED_QOS if topic == TF_STATIC else RELIABLE_QOS
                connections[topic] = writer.add_connection(
                    topic,
                    message.__msgtype__,
                    typestore=TYPESTORE,
                    offered_qos_profiles=[(qos or {}).get(topic, default)],
                )
            writer.write(connections[topic], time, TYPESTORE.serialize_cdr(message, message.__msgtype__))
    return path


def write_unchunked_mcap(path: Path) -> Path:
    """The same as a bare mcap file whose messages are in no chunk, as rosbag2's storage option noChunking writes it."""
    source = write_rosbag2(path.parent / "chunked") / "chunked.mcap"
    with source.open("rb") as chunked, path.open("wb") as file:
        reader, writer = make_reader(chunked), Writer(file, use_chunking=False)
        writer.start(profile="ros2")
        channels: dict[int, int] = {}
        for schema, channel, message in reader.iter_messages():
            if channel.id not in channels:
                assert schema is not None
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.id] = writer.register_channel(
                    channel.topic, channel.message_encoding, number, channel.metadata
                )
            writer.add_message(channels[channel.id], message.log_time, message.data, message.publish_time)
        writer.finish()
    return path


def write_rosbag1(path: Path, *, lz4: bool = False, **scene: bool) -> Path:
    """The drive as a rosbag1 file, in ROS 1's own message definitions."""
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
    writer = rosbag1.Writer(path)
    if lz4:
        writer.set_compression(rosbag1.Writer.CompressionFormat.LZ4)
    with writer:
        connections = {}
        for topic, time, message in recorded(**scene):
            if topic not in connections:
                latching = int(topic == TF_STATIC)
                connections[topic] = writer.add_connection(
                    topic, message.__msgtype__, typestore=store, latching=latching
                )
            writer.write(connections[topic], time, store.serialize_ros1(_as_ros1(store, message), message.__msgtype__))
    return path


def _as_ros1(store: Any, message: Any) -> Any:
    """The same message built from ROS 1's classes: headers gain a sequence number, K is upper case."""
    if isinstance(message, list):
        return [_as_ros1(store, item) for item in message]
    if not hasattr(message, "__msgtype__"):
        return message
    names = [name for name, _ in store.fielddefs[message.__msgtype__][1]]
    values = {name: 7 if name == "seq" else _as_ros1(store, _field(message, name)) for name in names}
    return store.types[message.__msgtype__](**values)


def _field(message: Any, name: str) -> Any:
    return getattr(message, name) if hasattr(message, name) else getattr(message, name.lower())

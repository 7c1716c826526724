"""ROS 2 messages for bags, made from arrays and read back, without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.stores import ros2_jazzy as ros

from sem_depth_node.camera import CameraModel
from sem_depth_node.stamps import NANOSECONDS
from sem_depth_node.transforms import quaternion

_FLOAT32 = 7  # of sensor_msgs/PointField
_PLANE_DTYPES = {"32FC1": "f4", "16UC1": "u2"}


def time(nanoseconds: int) -> ros.builtin_interfaces__msg__Time:
    """A stamp from nanoseconds since the epoch."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return ros.builtin_interfaces__msg__Time(sec=seconds, nanosec=rest)


def header(stamp: int, frame_id: str) -> ros.std_msgs__msg__Header:
    """A header with `stamp` in nanoseconds."""
    return ros.std_msgs__msg__Header(stamp=time(stamp), frame_id=frame_id)


def image(head: ros.std_msgs__msg__Header, pixels: NDArray[Any], encoding: str) -> ros.sensor_msgs__msg__Image:
    """An image without row padding.

    Args:
        head: its header.
        pixels: (H, W) or (H, W, C) of the encoding's type; little endian.
        encoding: as in sensor_msgs/image_encodings.
    """
    rows = np.ascontiguousarray(pixels)
    return ros.sensor_msgs__msg__Image(
        header=head,
        height=rows.shape[0],
        width=rows.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=rows.strides[0],
        data=rows.reshape(-1).view(np.uint8),
    )


def compressed_image(
    head: ros.std_msgs__msg__Header, encoded: bytes, image_format: str
) -> ros.sensor_msgs__msg__CompressedImage:
    """An image file in a message; `image_format` as "jpeg" or "png"."""
    return ros.sensor_msgs__msg__CompressedImage(
        header=head, format=image_format, data=np.frombuffer(encoded, np.uint8)
    )


def camera_info(
    head: ros.std_msgs__msg__Header,
    camera: CameraModel,
    rectification: NDArray[np.float64] | None = None,
    projection: NDArray[np.float64] | None = None,
) -> ros.sensor_msgs__msg__CameraInfo:
    """A camera's calibration.

    Args:
        head: its header.
        camera: size, K and distortion.
        rectification: R (3, 3); identity by default.
        projection: P (3, 4); [K | 0] by default.
    """
    K = camera.K
    P = np.hstack((K, np.zeros((3, 1)))) if projection is None else projection
    return ros.sensor_msgs__msg__CameraInfo(
        header=head,
        height=camera.height,
        width=camera.width,
        distortion_model=camera.distortion_model or "plumb_bob",
        d=np.array(camera.distortion or (0.0,) * 5, np.float64),
        k=K.reshape(9),
        r=(np.eye(3) if rectification is None else rectification).reshape(9).astype(np.float64),
        p=P.reshape(12).astype(np.float64),
        binning_x=0,
        binning_y=0,
        roi=ros.sensor_msgs__msg__RegionOfInterest(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def point_cloud(
    head: ros.std_msgs__msg__Header,
    points: NDArray[np.float32],
    fields: Sequence[str] = ("x", "y", "z", "intensity"),
) -> ros.sensor_msgs__msg__PointCloud2:
    """A cloud of float32 fields.

    Args:
        head: its header.
        points: (N, len(fields)) for a list of points, (H, W, len(fields)) for an organised cloud.
        fields: names of the last axis.
    """
    packed = np.ascontiguousarray(points, np.float32)
    height, width = (1, len(packed)) if packed.ndim == 2 else packed.shape[:2]
    step = 4 * len(fields)
    return ros.sensor_msgs__msg__PointCloud2(
        header=head,
        height=height,
        width=width,
        fields=[
            ros.sensor_msgs__msg__PointField(name=name, offset=4 * index, datatype=_FLOAT32, count=1)
            for index, name in enumerate(fields)
        ],
        is_bigendian=False,
        point_step=step,
        row_step=step * width,
        data=packed.reshape(-1).view(np.uint8),
        is_dense=bool(np.isfinite(packed[..., :3]).all()),
    )


def depth_metres(image: Any) -> NDArray[np.float32]:
    """A depth image (H, W) in metres (REP 118): 32FC1 as it is, 16UC1 millimetres with 0 as NaN.

    Raises:
        ValueError: another encoding, or its sizes disagree.
    """
    pixels = plane(image, ("32FC1", "16UC1"))
    if image.encoding == "16UC1":
        pixels[pixels == 0] = np.nan
        pixels /= 1000
    return pixels


def plane(image: Any, encodings: Sequence[str] = ("32FC1",)) -> NDArray[np.float32]:
    """The values (H, W) of a one-channel image, copied.

    Raises:
        ValueError: its encoding is none of `encodings`, or its sizes disagree.
    """
    if image.encoding not in encodings:
        raise ValueError(f"image encoding is {image.encoding!r}, expected {' or '.join(encodings)}")
    dtype = np.dtype((">" if image.is_bigendian else "<") + _PLANE_DTYPES[image.encoding])
    if image.step < image.width * dtype.itemsize or len(image.data) < image.height * image.step:
        raise ValueError(
            f"image {image.width}x{image.height} {image.encoding} has step {image.step} and "
            f"{len(image.data)} bytes of data"
        )
    shape, strides = (image.height, image.width), (image.step, dtype.itemsize)
    return np.ndarray(shape, dtype, np.asarray(image.data), strides=strides).astype(np.float32)


def transform(stamp: int, parent: str, child: str, matrix: NDArray[np.float64]) -> Any:
    """The pose of frame `child` in frame `parent`: `matrix` (4, 4) takes points of `child` to `parent`."""
    x, y, z = (float(value) for value in matrix[:3, 3])
    qx, qy, qz, qw = quaternion(matrix[:3, :3])
    return ros.geometry_msgs__msg__TransformStamped(
        header=header(stamp, parent),
        child_frame_id=child,
        transform=ros.geometry_msgs__msg__Transform(
            translation=ros.geometry_msgs__msg__Vector3(x=x, y=y, z=z),
            rotation=ros.geometry_msgs__msg__Quaternion(x=qx, y=qy, z=qz, w=qw),
        ),
    )


def tf(*transforms: Any) -> ros.tf2_msgs__msg__TFMessage:
    """A message for /tf or /tf_static."""
    return ros.tf2_msgs__msg__TFMessage(transforms=list(transforms))

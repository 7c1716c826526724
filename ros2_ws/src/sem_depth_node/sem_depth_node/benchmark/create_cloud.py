"""The cloud as a user would build it with numpy and `sensor_msgs_py.point_cloud2.create_cloud`, to compare with ours.

`sensor_msgs_py` comes with ROS distributions alone. The steps of its `create_cloud` are done here again, after its
source in ros2/common_interfaces (version 5.3): points become an array of one record type made from the fields; rows of
a plain array by numpy's `unstructured_to_structured`, other points by way of tuples; the bytes are copied to an
`array.array`.
"""

from __future__ import annotations

import array
from collections.abc import Iterable

import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel

FIELDS = np.dtype([(name, np.float32) for name in ("x", "y", "z", "rgb")])


def coloured_points(depth: NDArray[np.float32], rgb: NDArray[np.uint8], camera: CameraModel) -> NDArray[np.float32]:
    """Points of a depth image, float32 (H * W, 4): x, y, z, packed rgb, computed field by field."""
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float32)
    z = np.where(np.isfinite(depth), depth, np.float32(np.nan))
    x = (u - np.float32(camera.cx)) / np.float32(camera.fx) * z
    y = (v - np.float32(camera.cy)) / np.float32(camera.fy) * z
    r, g, b = (rgb[..., channel].astype(np.uint32) for channel in range(3))
    packed = ((r << 16) | (g << 8) | b).view(np.float32)
    return np.stack((x, y, z, packed), axis=-1).reshape(-1, 4)


def cloud_bytes(points: Iterable[Iterable[float]]) -> array.array[int]:
    """The data of the message that `create_cloud` makes of points."""
    if isinstance(points, np.ndarray):
        records = unstructured_to_structured(points, dtype=FIELDS)
    else:
        records = np.array(list(map(tuple, points)), dtype=FIELDS)
    data = array.array("B")
    data.frombytes(memoryview(records).cast("B"))  # type: ignore[arg-type, unused-ignore]  # by numpy's version
    return data

"""Messages that the node publishes, filled in place: made once for a size and a frame, filled again for every image."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField

from sem_depth_node.camera import CameraModel
from sem_depth_node.pointcloud import POINT_STEP
from sem_depth_node.ros.serialized_message import SerializedMessage

BIG_ENDIAN = sys.byteorder == "big"
# The farthest that 16UC1 can say.
MAX_MILLIMETRES = 65535


class ImageBuffer:
    """An Image message and the pixels in it.

    Args:
        frame_id: of its header.
        height, width: in pixels.
        encoding: of the message.
        dtype: of a channel.
        channels: per pixel.

    Attributes:
        layout: what the message says beside its pixels and stamp: (frame_id, height, width, encoding).
        message: to publish.
        pixels: (height, width) or (height, width, channels), writable; the message's own memory.
    """

    def __init__(self, frame_id: str, height: int, width: int, encoding: str, dtype: type, channels: int = 1) -> None:
        self.layout = frame_id, height, width, encoding
        step = width * channels * np.dtype(dtype).itemsize
        image = Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=BIG_ENDIAN)
        image.header.frame_id = frame_id
        self.message = SerializedMessage(image, height * step)
        shape = (height, width) if channels == 1 else (height, width, channels)
        self.pixels: NDArray[Any] = self.message.data.view(dtype).reshape(shape)


class CloudBuffer:
    """An organised PointCloud2 of x, y, z (float32 metres, optical frame) and packed rgb, and the points in it.

    Args:
        frame_id: of its header.
        height, width: of the depth image.

    Attributes:
        frame_id: as given.
        message: to publish.
        points: float32 (height, width, 4), writable; the message's own memory.
    """

    def __init__(self, frame_id: str, height: int, width: int) -> None:
        self.frame_id = frame_id
        cloud = PointCloud2(
            height=height,
            width=width,
            fields=[
                PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
                for index, name in enumerate(("x", "y", "z", "rgb"))
            ],
            is_bigendian=BIG_ENDIAN,
            point_step=POINT_STEP,
            row_step=POINT_STEP * width,
            is_dense=False,  # points without an answer are NaN
        )
        cloud.header.frame_id = frame_id
        self.message = SerializedMessage(cloud, height * width * POINT_STEP)
        self.points = self.message.data.view(np.float32).reshape(height, width, 4)


def fill_millimetres(depth: NDArray[np.float32], out: NDArray[np.uint16]) -> None:
    """Depth in metres as 16UC1 millimetres (REP 118): rounded; 0 where it is not finite or beyond 65.535 m.

    Args:
        depth: (H, W).
        out: (H, W), written.
    """
    millimetres = depth * np.float32(1000)
    np.rint(millimetres, out=millimetres)
    np.copyto(millimetres, np.float32(0), where=~(millimetres <= MAX_MILLIMETRES))  # NaN compares false
    np.copyto(out, millimetres, casting="unsafe")


def depth_camera_info(header: Any, source: CameraInfo, from_projection: bool, camera: CameraModel) -> CameraInfo:
    """The camera_info of the depth image.

    Scaling and cropping map pixels by one affine matrix A, so K' = A K and P' = A P; D and R are those of the source.
    Where the source's P is empty, P' is K'. The skew of K is taken for none, as everywhere here.
    Of a rectified camera, K' is also the left of P', D is zero and R the identity, because the depth image is the
    rectified camera's own. The baseline in P of a stereo pair's right camera is left out then: depth and cloud are in
    that camera's own frame.

    Args:
        header: of the image.
        source: the camera_info that came with it.
        from_projection: `camera` comes from P of the source, not from K.
        camera: of the depth image.
    """
    info = CameraInfo(header=header, height=camera.height, width=camera.width, k=camera.K.ravel())
    if from_projection:
        info.distortion_model, info.d = "plumb_bob", [0.0] * 5
        info.r = np.eye(3).ravel()
        info.p = np.column_stack((camera.K, np.zeros(3))).ravel()
    else:
        info.distortion_model, info.d, info.r = source.distortion_model, source.d, source.r
        projection = np.column_stack((camera.K, np.zeros(3)))
        if source.p[0]:
            k = source.k
            across, down = camera.fx / k[0], camera.fy / k[4]
            affine = [[across, 0, camera.cx - across * k[2]], [0, down, camera.cy - down * k[5]], [0, 0, 1]]
            projection = np.array(affine) @ np.reshape(source.p, (3, 4))
        info.p = projection.ravel()
    return info

"""Camera messages for the tiny bundle's network, and the depth it must answer."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from encoded_images import EncodedImage, encode, two_halves
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tiny_bundle import CANONICAL_FOCAL_LENGTH, canonical_depth

SECOND = 1_000_000_000
FRAME = "front_camera_optical_frame"
# Twice the tiny bundle's wide input.
WIDTH, HEIGHT = 384, 128
CAMERA = SimpleNamespace(fx=300.0, fy=310.0, cx=190.0, cy=60.0)
LEFT, RIGHT = (99, 64, 10), (39, 32, 200)


def header(stamp: int) -> Header:
    """A header of the test camera; `stamp` in nanoseconds."""
    return Header(stamp=Time(sec=stamp // SECOND, nanosec=stamp % SECOND), frame_id=FRAME)


def picture(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Two halves: near-ish left, nearer right."""
    return two_halves(height, width, LEFT, RIGHT)


def image_message(stamp: int, image: EncodedImage | None = None) -> Image:
    """An Image; by default the picture in rgb8."""
    image = image or encode(picture(), "rgb8")
    message = Image(
        header=header(stamp),
        height=image.height,
        width=image.width,
        encoding=image.encoding,
        step=image.step,
        is_bigendian=image.is_bigendian,
    )
    message.data = image.data
    return message


def compressed_message(stamp: int, rgb: NDArray[np.uint8], name: str) -> CompressedImage:
    """A CompressedImage, jpeg or png."""
    ok, data = cv2.imencode(".jpg" if name == "jpeg" else ".png", rgb[..., ::-1])
    assert ok
    return CompressedImage(header=header(stamp), format=name, data=data.tobytes())


def info_message(stamp: int, width: int = WIDTH, height: int = HEIGHT) -> CameraInfo:
    """The test camera's CameraInfo, for `width` x `height` pixels of the same field of view."""
    s = width / WIDTH
    cx, cy = (CAMERA.cx + 0.5) * s - 0.5, (CAMERA.cy + 0.5) * s - 0.5
    info = CameraInfo(header=header(stamp), height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [CAMERA.fx * s, 0.0, cx, 0.0, CAMERA.fy * s, cy, 0.0, 0.0, 1.0]
    info.p = [CAMERA.fx * s, 0.0, cx, -44.0, 0.0, CAMERA.fy * s, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    return info


def metric_depth(red: int, width_shown: int = WIDTH, input_width: int = 192) -> float:
    """Metres the node must answer for a pixel of this red, when `width_shown` pixels fill the network's input."""
    focal_length = math.sqrt(CAMERA.fx * CAMERA.fy) * input_width / width_shown
    return canonical_depth(red) * focal_length / CANONICAL_FOCAL_LENGTH


def plane(message: Image) -> NDArray[np.float32]:
    """The pixels of a 32FC1 image."""
    assert message.encoding == "32FC1"
    assert message.step == 4 * message.width
    return np.frombuffer(message.data, "<f4").reshape(message.height, message.width)

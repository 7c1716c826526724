"""RGB pictures in every encoding of sensor_msgs/Image, made without the code that reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_CHANNELS = {
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "8UC3": (2, 1, 0),
    "rgba8": (0, 1, 2, None),
    "bgra8": (2, 1, 0, None),
    "8UC4": (2, 1, 0, None),
}
_GREY = {"mono8": 1, "8UC1": 1, "mono16": 2}
_YUV422 = {"yuv422": "uyvy", "uyvy": "uyvy", "yuv422_yuy2": "yuyv", "yuyv": "yuyv"}


@dataclass
class EncodedImage:
    """The fields of sensor_msgs/Image but its header."""

    width: int
    height: int
    encoding: str
    step: int
    is_bigendian: int
    data: bytes


def two_halves(height: int, width: int, left: tuple[int, int, int], right: tuple[int, int, int]) -> Pixels:
    """A picture of two colours; `width` a multiple of 4, so that shared chroma does not mix them."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = left, right
    return image


def encode(rgb: Pixels, encoding: str, padding: int = 0, big_endian: bool = False, whole: bool = True) -> EncodedImage:
    """The picture in `encoding`, every row (of luma, if that is apart) followed by `padding` bytes of rubbish.

    Grey encodings keep the red channel. Chroma shared by pixels is that of the first of them. Without `whole`, the
    padding of the last row is left out.
    """
    height, width = rgb.shape[:2]
    if encoding in _CHANNELS:
        planes = [np.full((height, width), 77, np.uint8) if c is None else rgb[..., c] for c in _CHANNELS[encoding]]
        rows = np.stack(planes, axis=-1).reshape(height, -1)
    elif encoding in _GREY:
        rows = _as_bytes(rgb[..., 0], _GREY[encoding], big_endian)
    elif encoding.startswith("bayer_"):
        pattern, size = encoding[6:10], int(encoding[10:]) // 8
        mosaic = np.empty((height, width), np.uint8)
        for index, colour in enumerate(pattern):
            y, x = divmod(index, 2)
            mosaic[y::2, x::2] = rgb[y::2, x::2, "rgb".index(colour)]
        rows = _as_bytes(mosaic, size, big_endian)
    elif encoding in _YUV422:
        luma, chroma = _luma(rgb), _chroma(rgb)[:, ::2]
        rows = np.empty((height, 2 * width), np.uint8)
        order = _YUV422[encoding]
        rows[:, order.index("y") :: 4], rows[:, order.rindex("y") :: 4] = luma[:, ::2], luma[:, 1::2]
        rows[:, order.index("u") :: 4], rows[:, order.index("v") :: 4] = chroma[..., 0], chroma[..., 1]
    elif encoding in ("nv12", "nv21"):
        chroma = _chroma(rgb)[::2, ::2]
        chroma = chroma if encoding == "nv12" else chroma[..., ::-1]
        rows = np.vstack((_luma(rgb), chroma.reshape(height // 2, width)))
    elif encoding == "nv24":
        # Its chroma rows are twice as long, padding included, so each makes two of luma's.
        chroma = _pad(_chroma(rgb).reshape(height, 2 * width), 2 * padding).reshape(2 * height, width + padding)
        return _message(rgb, encoding, np.vstack((_pad(_luma(rgb), padding), chroma)), 0, big_endian, True)
    else:
        raise ValueError(encoding)
    return _message(rgb, encoding, rows, padding, big_endian, whole)


def _message(rgb: Pixels, encoding: str, rows: Pixels, padding: int, big_endian: bool, whole: bool) -> EncodedImage:
    padded = _pad(rows, padding)
    data = padded.tobytes()
    if not whole:
        data = data[: len(data) - padding]
    return EncodedImage(rgb.shape[1], rgb.shape[0], encoding, padded.shape[1], int(big_endian), data)


def _pad(rows: Pixels, padding: int) -> Pixels:
    return np.pad(rows, ((0, 0), (0, padding)), constant_values=201)


def _as_bytes(plane: Pixels, size: int, big_endian: bool) -> Pixels:
    if size == 1:
        return plane
    # The lower byte is noise, which must not show.
    words = plane.astype(np.uint16) * 256 + 37
    return words.astype(">u2" if big_endian else "<u2").view(np.uint8)


def _luma(rgb: Pixels) -> Pixels:
    """Y of BT.601, 16..235."""
    return np.rint(16 + rgb.astype(float) @ (65.481, 128.553, 24.966) / 255).astype(np.uint8)


def _chroma(rgb: Pixels) -> Pixels:
    """U and V of BT.601, 16..240, on the last axis."""
    matrix = np.array([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
    return np.rint(128 + rgb.astype(float) @ matrix.T / 255).astype(np.uint8)

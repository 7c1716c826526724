"""From the pixels of an image message to uint8 RGB: encodings, row padding and byte order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bad_input import BadInput

Pixels = NDArray[np.uint8]


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image that matter here, as rclpy and rosbags both name them."""

    width: int
    height: int
    encoding: str
    is_bigendian: Any
    step: int
    data: Any


class CompressedImageMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage that matter here."""

    format: str
    data: Any


@dataclass(frozen=True)
class _Packed:
    """One plane of interleaved channels. `to_rgb` is OpenCV's conversion code, None for what is RGB already."""

    channels: int
    to_rgb: int | None
    bytes_per_channel: int = 1
    pixels_per_group: int = 1  # neighbouring pixels that share chroma: the width is a multiple of it


# OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by the first row's first two.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}

_PACKED = {
    "rgb8": _Packed(3, None),
    "bgr8": _Packed(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Packed(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Packed(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Packed(1, cv2.COLOR_GRAY2RGB),
    "mono16": _Packed(1, cv2.COLOR_GRAY2RGB, bytes_per_channel=2),
    # OpenCV's own type names say nothing of colour; its order is blue, green, red.
    "8UC1": _Packed(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Packed(3, cv2.COLOR_BGR2RGB),
    "8UC4": _Packed(4, cv2.COLOR_BGRA2RGB),
    "yuv422": _Packed(2, cv2.COLOR_YUV2RGB_UYVY, pixels_per_group=2),
    "uyvy": _Packed(2, cv2.COLOR_YUV2RGB_UYVY, pixels_per_group=2),
    "yuv422_yuy2": _Packed(2, cv2.COLOR_YUV2RGB_YUY2, pixels_per_group=2),
    "yuyv": _Packed(2, cv2.COLOR_YUV2RGB_YUY2, pixels_per_group=2),
    **{f"bayer_{pattern}8": _Packed(1, code) for pattern, code in _BAYER.items()},
    **{f"bayer_{pattern}16": _Packed(1, code, bytes_per_channel=2) for pattern, code in _BAYER.items()},
}

# What image_transport calls a compressed image that still is a mosaic: its own encoding or none after "compressed". One
# that was made grey or coloured before says "mono8" or "bgr8" there.
_MOSAIC = re.compile(rf"bayer_({'|'.join(_BAYER)})(?:8|16) *;.*\bcompressed *(?:bayer_\w+ *)?")

# BT.601 with limited range, which OpenCV assumes for the subsampled formats too; rows R, G, B of Y, U, V, 1.
_YUV_TO_RGB = np.array(
    [[1.164, 0.0, 1.596, -222.921], [1.164, -0.391, -0.813, 135.576], [1.164, 2.018, 0.0, -276.836]], np.float32
)


class ImageDecoder:
    """Decodes image messages to RGB. 16-bit channels keep their upper byte.

    What it returns is a view of the message where the message holds RGB already, else a buffer that the next call
    writes again: copy what you keep.
    """

    def __init__(self) -> None:
        self._rgb = np.empty((0, 0, 3), np.uint8)

    def decode(self, image: ImageMessage) -> Pixels:
        """RGB of a sensor_msgs/Image: uint8 (height, width, 3); rows may be padded, pixels are not.

        Raises:
            BadInput: `zero_size`, `unknown_encoding`, or `size_mismatch` of width, height, step and data.
        """
        if image.width == 0 or image.height == 0:
            raise BadInput("zero_size", f"image is {image.width}x{image.height} pixels, expected both above zero")
        if image.encoding in _PACKED:
            return self._decode_packed(image, _PACKED[image.encoding])
        if image.encoding in _SEMI_PLANAR:
            return _SEMI_PLANAR[image.encoding](self, image)
        known = ", ".join((*_PACKED, *_SEMI_PLANAR))
        raise BadInput("unknown_encoding", f"image encoding is {image.encoding!r}, expected one of {known}")

    def decode_compressed(self, image: CompressedImageMessage) -> Pixels:
        """RGB of a sensor_msgs/CompressedImage, jpeg or png: uint8 (height, width, 3).

        A grey file that its format calls a Bayer mosaic ("bayer_rggb8; png compressed") is interpolated to colour.

        Raises:
            BadInput: `unknown_encoding`, or `undecodable` for data that is damaged or cut short.
        """
        name = image.format.lower()
        if not any(codec in name for codec in ("jpeg", "jpg", "png")) or "compresseddepth" in name:
            raise BadInput("unknown_encoding", f"compressed image format is {image.format!r}, expected jpeg or png")
        data = np.frombuffer(image.data, np.uint8)
        if codec := cut_short(data.tobytes()):
            raise BadInput(
                "undecodable",
                f"compressed image ({image.format!r}, {data.size} bytes) is a {codec} cut short, its end is missing",
            )
        mosaic = _MOSAIC.fullmatch(name)
        channels = cv2.IMREAD_ANYCOLOR if mosaic else cv2.IMREAD_COLOR
        try:
            # The camera's calibration is for the stored pixels, so a rotation noted in EXIF is not for us.
            decoded = cv2.imdecode(data, channels | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:
            raise BadInput("undecodable", f"compressed image ({image.format!r}) does not decode: {error}") from error
        if decoded is None:
            raise BadInput(
                "undecodable",
                f"compressed image ({image.format!r}, {data.size} bytes) is not a jpeg or png that decodes",
            )
        if mosaic and decoded.ndim == 2:
            return cv2.cvtColor(decoded, _BAYER[mosaic[1]], dst=self._buffer(*decoded.shape))  # type: ignore[return-value]
        if "compressed rgb" in name:  # image_transport's word for "the encoder was given RGB as if it were BGR"
            return decoded  # type: ignore[return-value]
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=self._buffer(*decoded.shape[:2]))  # type: ignore[return-value]

    def _decode_packed(self, image: ImageMessage, layout: _Packed) -> Pixels:
        if image.width % layout.pixels_per_group:
            raise BadInput("size_mismatch", f"{_of(image)}: this encoding needs an even width")
        samples = image.width * layout.channels
        rows = _rows(image, samples * layout.bytes_per_channel, image.height)
        if layout.bytes_per_channel == 2:
            rows = rows[:, 0 if image.is_bigendian else 1 :: 2].copy()  # OpenCV wants neighbours side by side
        if layout.channels > 1:
            rows = rows.reshape(image.height, image.width, layout.channels)
        if layout.to_rgb is None:
            return rows
        return cv2.cvtColor(rows, layout.to_rgb, dst=self._buffer(image.height, image.width))  # type: ignore[return-value]

    def _decode_420(self, image: ImageMessage, to_rgb: int) -> Pixels:
        if image.width % 2 or image.height % 2:
            raise BadInput("size_mismatch", f"{_of(image)}: this encoding needs an even width and height")
        rows = _rows(image, image.width, image.height * 3 // 2)
        chroma = rows[image.height :].reshape(image.height // 2, image.width // 2, 2)
        rgb = self._buffer(image.height, image.width)
        return cv2.cvtColorTwoPlane(rows[: image.height], chroma, to_rgb, dst=rgb)  # type: ignore[return-value]

    def _decode_444(self, image: ImageMessage) -> Pixels:
        rows = _rows(image, image.width, image.height * 3)
        # A row of interleaved chroma is as long as two of luma, padding included.
        shape, start, strides = (image.height, image.width, 2), image.height * image.step, (2 * image.step, 2, 1)
        chroma = np.ndarray(shape, np.uint8, image.data, start, strides)
        yuv = cv2.merge((rows[: image.height], chroma[..., 0].copy(), chroma[..., 1].copy()))
        return cv2.transform(yuv, _YUV_TO_RGB, dst=self._buffer(image.height, image.width))  # type: ignore[return-value]

    def _buffer(self, height: int, width: int) -> Pixels:
        if self._rgb.shape != (height, width, 3):
            self._rgb = np.empty((height, width, 3), np.uint8)
        return self._rgb


# A plane of luma, then one of interleaved chroma.
_SEMI_PLANAR: dict[str, Callable[[ImageDecoder, ImageMessage], Pixels]] = {
    "nv12": lambda decoder, image: decoder._decode_420(image, cv2.COLOR_YUV2RGB_NV12),
    "nv21": lambda decoder, image: decoder._decode_420(image, cv2.COLOR_YUV2RGB_NV21),
    "nv24": lambda decoder, image: decoder._decode_444(image),
}

ENCODINGS = (*_PACKED, *_SEMI_PLANAR)

_PNG_ENDS = b"IEND\xaeB`\x82"  # the last chunk is empty, so its checksum is always the same


def _rows(image: ImageMessage, row_bytes: int, rows: int) -> Pixels:
    """The message's bytes as `rows` rows of `row_bytes`, without the padding that `step` may add; no copy."""
    if image.step < row_bytes:
        raise BadInput("size_mismatch", f"{_of(image)}: step is {image.step} bytes, expected at least {row_bytes}")
    found, expected = len(image.data), image.step * rows
    # Some drivers leave out the padding of the last row.
    if found != expected and found != expected - image.step + row_bytes:
        raise BadInput(
            "size_mismatch",
            f"{_of(image)}: data holds {found} bytes, expected {expected} (step {image.step} x {rows} rows)",
        )
    return np.ndarray((rows, row_bytes), np.uint8, image.data, strides=(image.step, 1))


def _of(image: ImageMessage) -> str:
    return f"image {image.width}x{image.height} {image.encoding}"


def cut_short(data: bytes) -> str | None:
    """ "jpeg" or "png" for such a file whose end is missing: decoders fill the rest with grey and call it an image.

    A jpeg ends with the marker EOI after its last scan (ISO/IEC 10918-1); that of a thumbnail comes before.
    """
    if data.startswith(b"\xff\xd8"):
        return None if data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") else "jpeg"
    return "png" if data.startswith(b"\x89PNG") and _PNG_ENDS not in data else None

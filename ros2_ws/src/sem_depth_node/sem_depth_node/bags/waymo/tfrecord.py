"""Segments of the Waymo Open Dataset 1: one TFRecord file of Frame messages a segment, read without TensorFlow.

Few fields of dataset.proto are needed, so they are picked from the wire format by their numbers; no generated code.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bags.waymo.segment import (
    CAMERAS,
    LASER_WITH_POSES,
    LASERS,
    Matrix,
    WaymoCamera,
    WaymoError,
    WaymoFrame,
    WaymoImage,
    WaymoLaser,
    WaymoScan,
    camera_model,
)

# Values of a message by field number; fixed-width numbers as their bytes.
Fields = Mapping[int, Sequence[int | bytes]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class TfrecordSegment:
    """A segment in the format of version 1.

    Args:
        path: of the .tfrecord file.
        lidar: whether frames have scans.

    Attributes:
        name, cameras, lasers: see `WaymoSegment`.

    Raises:
        WaymoError: not such a file.
    """

    def __init__(self, path: Path, *, lidar: bool = True) -> None:
        self.path = path
        self._lidar = lidar
        first = next(self._records(), None)
        if first is None:
            raise WaymoError(f"{path}: empty file")
        try:
            context = _message(_message(first)[1][0])
            self.name = _bytes(context[1][0]).decode()
            self.cameras: Mapping[str, WaymoCamera] = dict(map(_camera, context[2]))
            self.lasers: Mapping[str, WaymoLaser] = dict(map(_laser, context[3])) if lidar else {}
        except _DAMAGED as error:
            raise WaymoError(f"{path}: the first record is no Frame of the Waymo Open Dataset: {error!r}") from error

    def frames(self) -> Iterator[WaymoFrame]:
        """See `WaymoSegment`."""
        for number, record in enumerate(self._records(), start=1):
            try:
                frame = _message(record)
                context = _bytes(_message(frame[1][0])[1][0]).decode()
                if context != self.name:
                    raise WaymoError(f"{self.path}: record {number} is of another segment: {context}")
                scans = map(_scan, frame.get(5, ()) if self._lidar else ())
                yield WaymoFrame(
                    time=_int(frame[2][0]) * 1000,
                    world_from_vehicle=_matrix(frame[3][0]),
                    images=dict(map(_image, frame.get(4, ()))),
                    scans=dict(scan for scan in scans if scan is not None),
                )
            except _DAMAGED as error:
                raise WaymoError(f"{self.path}: record {number} is damaged: {error!r}") from error

    def _records(self) -> Iterator[bytes]:
        """The file's records. Their checksums are left alone; range images have others of their own."""
        try:
            with self.path.open("rb") as stream:
                while head := stream.read(12):
                    length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else -1
                    data = stream.read(length + 4) if 0 <= length < 1 << 31 else b""
                    if length < 0 or len(data) != length + 4:
                        raise WaymoError(f"{self.path}: cut short at byte {stream.tell()}, or not a TFRecord file")
                    yield data[:-4]
        except OSError as error:
            raise WaymoError(f"{self.path}: cannot be read: {error.strerror}") from error


_DAMAGED = (KeyError, IndexError, ValueError, TypeError, struct.error, zlib.error)


def _message(data: int | bytes) -> Fields:
    """The fields of a message in protobuf's wire format."""
    data = _bytes(data)
    fields: dict[int, list[int | bytes]] = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        value: int | bytes
        if wire_type == _VARINT:
            value, position = _varint(data, position)
        else:
            if wire_type == _BYTES:
                size, position = _varint(data, position)
            else:
                size = {_FIXED64: 8, _FIXED32: 4}[wire_type]
            value = data[position : position + size]
            position += size
            if position > len(data):
                raise ValueError("a field ends after its message")
        fields.setdefault(number, []).append(value)
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TypeError("found bytes where a number is expected")
    return value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("found a number where bytes are expected")
    return value


def _doubles(values: Sequence[int | bytes]) -> NDArray[np.float64]:
    # Packed into one value or not, their bytes are the same.
    return np.frombuffer(b"".join(map(_bytes, values)), "<f8")


def _matrix(transform: int | bytes) -> Matrix:
    return _doubles(_message(transform)[1]).reshape(4, 4)


def _camera(data: int | bytes) -> tuple[str, WaymoCamera]:
    fields = _message(data)
    f_u, f_v, c_u, c_v, *distortion = _doubles(fields[2]).tolist()
    model = camera_model(_int(fields[4][0]), _int(fields[5][0]), f_u, f_v, c_u, c_v, distortion)
    return CAMERAS[_int(fields[1][0])], WaymoCamera(model, _matrix(fields[3][0]))


def _laser(data: int | bytes) -> tuple[str, WaymoLaser]:
    fields = _message(data)
    uniform = 2 not in fields
    inclinations = _doubles([fields[3][0], fields[4][0]] if uniform else fields[2])
    return LASERS[_int(fields[1][0])], WaymoLaser(_matrix(fields[5][0]), inclinations, uniform)


def _image(data: int | bytes) -> tuple[str, WaymoImage]:
    fields = _message(data)
    jpeg = _bytes(fields[2][0])
    if not jpeg.startswith(b"\xff\xd8"):
        raise ValueError("an image is not a JPEG")
    time = round(float(_doubles(fields[5])[0]) * 1e6) * 1000
    return CAMERAS[_int(fields[1][0])], WaymoImage(jpeg, time, _matrix(fields[3][0]))


def _scan(data: int | bytes) -> tuple[str, WaymoScan] | None:
    """None where the file's range images were taken out, or the poses that they need."""
    fields = _message(data)
    images = [_message(fields[number][0]) for number in (2, 3) if number in fields]
    returns = [_range_image(image[2][0], 4) for image in images if 2 in image]
    if not returns:
        return None
    name = LASERS[_int(fields[1][0])]
    poses = _range_image(images[0][4][0], 6) if 4 in images[0] else None
    return None if poses is None and name == LASER_WITH_POSES else (name, WaymoScan(returns, poses))


def _range_image(compressed: int | bytes, channels: int) -> NDArray[np.float32]:
    """(H, W, channels) of a deflated MatrixFloat."""
    matrix = _message(zlib.decompress(_bytes(compressed)))
    shape = [_int(size) for size in _message(matrix[2][0])[1]]
    if len(shape) != 3 or shape[2] != channels:
        raise ValueError(f"a range image has shape {shape}, expected (rows, columns, {channels})")
    return np.frombuffer(b"".join(map(_bytes, matrix[1])), "<f4").reshape(shape)

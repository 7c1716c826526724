"""What every KITTI layout has in common: timed messages of cameras, LiDAR and poses."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from sem_depth_node.bags import messages
from sem_depth_node.bags.kitti.calibration import Calibration
from sem_depth_node.bags.kitti.files import KittiError, read_whole_image, size_of

MAP, BASE, IMU, LIDAR = "map", "base_link", "imu_link", "velo_link"

CAMERAS = {0: "camera_gray_left", 1: "camera_gray_right", 2: "camera_color_left", 3: "camera_color_right"}

LIDAR_TOPIC = "/kitti/velo/pointcloud"


class Timed(NamedTuple):
    """A message and when it is recorded, nanoseconds."""

    time: int
    topic: str
    message: Any


class KittiSequence(ABC):
    """Frames of one recording.

    Attributes:
        folder: it is in.
        cameras: numbers (0 to 3) of those that have images.
        notes: what is missing or was assumed, in words, once the messages have been read.
    """

    folder: Path
    cameras: list[int]

    def __init__(self) -> None:
        self.notes: list[str] = []

    def messages(self, cameras: Sequence[int] | None = None, *, compressed: bool = False) -> Iterator[Timed]:
        """Everything in order of time; on /tf_static and /tf the transforms.

        Args:
            cameras: numbers of the cameras to take; None for all.
            compressed: CompressedImage with the data set's own files, instead of Image.

        Raises:
            KittiError: a camera has no images, or a file is damaged.
        """
        chosen = self.cameras if cameras is None else list(cameras)
        if missing := [number for number in chosen if number not in self.cameras]:
            raise KittiError(
                f"{self.folder}: no images of camera {', '.join(map(str, missing))}, only of "
                f"{', '.join(map(str, self.cameras)) or 'none'}"
            )
        # heapq.merge keeps the order of its arguments where times are equal: transforms before what needs them.
        images = [self._images(number, compressed) for number in chosen]
        streams = [self._transforms(chosen), *images, self._scans(), self._poses()]
        yield from heapq.merge(*streams, key=lambda timed: timed.time)

    @abstractmethod
    def _transforms(self, cameras: Sequence[int]) -> Iterator[Timed]: ...

    @abstractmethod
    def _images(self, number: int, compressed: bool) -> Iterator[Timed]: ...

    @abstractmethod
    def _scans(self) -> Iterator[Timed]: ...

    @abstractmethod
    def _poses(self) -> Iterator[Timed]: ...


def image_messages(
    file: Path, stamp: int, number: int, kind: str, calibration: Calibration, compressed: bool
) -> Iterator[Timed]:
    """camera_info and image of one file.

    Args:
        file: of the image.
        stamp: nanoseconds.
        number: of the camera.
        kind: last part of the topic: image_rect or image_raw.
        calibration: of the camera.
        compressed: the file itself as a CompressedImage, instead of its pixels.

    Raises:
        KittiError: the file is no image, or not of the calibration's size.
    """
    folder = f"/kitti/{CAMERAS[number]}"
    head = messages.header(stamp, optical(number))
    camera = calibration.camera
    if compressed:
        size, message = size_of(file), messages.compressed_image(head, read_whole_image(file), _format(file))
        topic = f"{folder}/{kind}/compressed"
    else:
        pixels = cv2.imdecode(np.frombuffer(read_whole_image(file), np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise KittiError(f"{file}: not an image that can be decoded")
        size, topic = (pixels.shape[1], pixels.shape[0]), f"{folder}/{kind}"
        message = messages.image(head, pixels, "mono8" if pixels.ndim == 2 else "bgr8")  # type: ignore[assignment]
    if size != (camera.width, camera.height):
        raise KittiError(
            f"{file}: {size[0]}x{size[1]} pixels, but the calibration is for {camera.width}x{camera.height}"
        )
    info = messages.camera_info(head, camera, calibration.rectification, calibration.projection)
    yield Timed(stamp, f"{folder}/camera_info", info)
    yield Timed(stamp, topic, message)


def optical(number: int) -> str:
    """The optical frame of camera `number`."""
    return f"{CAMERAS[number]}_optical"


def _format(file: Path) -> str:
    return "png" if file.suffix == ".png" else "jpeg"

"""One slot between the camera and the worker: the newest frame wins."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any, Literal, NamedTuple

Pairing = Literal["latest", "exact"]

# Calibrations kept for images that are still on their way, when stamps must match.
_KEPT_CAMERA_INFOS = 32


class Frame(NamedTuple):
    """An image and the camera_info that goes with it.

    Attributes:
        image: sensor_msgs/Image or CompressedImage.
        camera_info: sensor_msgs/CameraInfo.
        arrived: when the image arrived, by `time.perf_counter`.
    """

    image: Any
    camera_info: Any
    arrived: float


class Mailbox:
    """Pairs images with camera_infos and hands the newest pair to one waiting thread.

    It holds one image at most. An image that finds no camera_info waits for one until a newer image takes its place.

    Args:
        pairing: "latest" pairs an image with the camera_info of its stamp if that came first, else with the newest
            one; "exact" only with the one of its stamp.
    """

    def __init__(self, pairing: Pairing = "latest") -> None:
        self._pairing = pairing
        self._image: tuple[Any, float] | None = None
        self._infos: OrderedDict[int, Any] = OrderedDict()
        self._open = True
        self._changed = threading.Condition()

    def put_image(self, image: Any) -> Any | None:
        """Put in a new image; returns the one it took the place of, None where the slot was free."""
        with self._changed:
            replaced = self._image
            self._image = image, time.perf_counter()
            self._changed.notify()
        return replaced[0] if replaced else None

    def put_camera_info(self, camera_info: Any) -> None:
        """Put in a new camera_info."""
        with self._changed:
            stamp = stamp_of(camera_info)
            self._infos.pop(stamp, None)  # so that a repeated stamp counts as the newest
            self._infos[stamp] = camera_info
            while len(self._infos) > _KEPT_CAMERA_INFOS:
                self._infos.popitem(last=False)
            self._changed.notify()

    def take(self) -> Frame | None:
        """Wait for a frame and take it out; None once the mailbox is closed."""
        with self._changed:
            while self._open:
                if self._image is not None:
                    image, arrived = self._image
                    info = self._partner(image)
                    if info is not None:
                        self._image = None
                        return Frame(image, info, arrived)
                self._changed.wait()
            return None

    def restart(self) -> None:
        """Forget all but the newest camera_info: time has jumped back, old stamps may come again."""
        with self._changed:
            while len(self._infos) > 1:
                self._infos.popitem(last=False)

    def close(self) -> None:
        """Let `take` return None from now on."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    @property
    def waits_for_camera_info(self) -> bool:
        """Whether an image lies here that has no camera_info."""
        with self._changed:
            return self._image is not None and self._partner(self._image[0]) is None

    def _partner(self, image: Any) -> Any | None:
        same_stamp = self._infos.get(stamp_of(image))
        if same_stamp is not None or self._pairing == "exact" or not self._infos:
            return same_stamp
        return next(reversed(self._infos.values()))


def stamp_of(message: Any) -> int:
    """Nanoseconds of a message's header stamp."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)

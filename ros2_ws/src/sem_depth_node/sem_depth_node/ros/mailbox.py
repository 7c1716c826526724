"""Between cameras and the worker: one slot for each camera, where the newest frame wins, and fair turns."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from sem_depth_node.stamps import nanoseconds

Pairing = Literal["latest", "exact"]

# How long an image waits for the camera_info of its own stamp, from a camera that sends one with every image. Most
# send it just after the image; taking the one before would be wrong whenever the camera zooms or changes its size.
OWN_INFO_PATIENCE = 0.1  # seconds
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
    """Pairs images of one camera with camera_infos and keeps the newest pair until it is taken.

    It holds one image at most. An image that finds no camera_info waits for one until a newer image takes its place.

    Args:
        pairing: "latest" pairs an image with the camera_info of its stamp, or with the newest one where the camera does
            not send one with every image; "exact" only with the one of its stamp.
        changed: guards the mailbox, and is notified when something is put in.
    """

    def __init__(self, pairing: Pairing, changed: threading.Condition) -> None:
        self._pairing, self._changed = pairing, changed
        self._image: tuple[Any, float] | None = None
        # Since when there are images without a camera_info of their own. Not since the newest came: a fast camera would
        # have that start anew with every image.
        self._unpaired_since: float | None = None
        self._infos: OrderedDict[int, Any] = OrderedDict()
        self._newest_stamp: int | None = None
        self._in_step = False  # whether the camera sends a camera_info with every image, as far as we know

    def put_image(self, image: Any) -> Any | None:
        """Put in a new image; returns the one it took the place of, None where the slot was free."""
        with self._changed:
            replaced = self._image
            self._image = image, time.perf_counter()
            self._newest_stamp = stamp_of(image)
            if self._newest_stamp in self._infos:
                self._in_step, self._unpaired_since = True, None
            elif self._unpaired_since is None:
                self._unpaired_since = self._image[1]
            self._changed.notify()
        return replaced[0] if replaced else None

    def put_camera_info(self, camera_info: Any) -> None:
        """Put in a new camera_info."""
        with self._changed:
            stamp = stamp_of(camera_info)
            if stamp == self._newest_stamp:
                self._in_step, self._unpaired_since = True, None
            self._infos.pop(stamp, None)  # so that a repeated stamp counts as the newest
            self._infos[stamp] = camera_info
            while len(self._infos) > _KEPT_CAMERA_INFOS:
                self._infos.popitem(last=False)
            self._changed.notify()

    def take(self) -> Frame | None:
        """Take out the frame that lies here; None where there is none, or an image that waits for its camera_info."""
        with self._changed:
            if self._image is None or self.waits_for_camera_info or self.patience:
                return None
            image, arrived = self._image
            info = self._infos.get(stamp_of(image))
            if info is None:
                info = next(reversed(self._infos.values()))
                self._in_step = False
            self._image = self._unpaired_since = None
            return Frame(image, info, arrived)

    def restart(self) -> None:
        """Forget all but the newest camera_info: time has jumped back, old stamps may come again."""
        with self._changed:
            while len(self._infos) > 1:
                self._infos.popitem(last=False)

    @property
    def waits_for_camera_info(self) -> bool:
        """Whether an image lies here that no camera_info can be paired with."""
        with self._changed:
            if self._image is None or stamp_of(self._image[0]) in self._infos:
                return False
            return self._pairing == "exact" or not self._infos

    @property
    def patience(self) -> float:
        """Seconds that the image lying here still waits for the camera_info of its stamp, before any other will do."""
        with self._changed:
            if self._image is None or not self._in_step or self._unpaired_since is None:
                return 0.0
            return max(0.0, self._unpaired_since + OWN_INFO_PATIENCE - time.perf_counter())


class Mailboxes:
    """One mailbox for each camera, for threads that take from all of them in turn.

    Of the cameras that have a frame, the one whose last turn is longest ago is next. So a fast camera cannot crowd out
    a slow one, and a silent one costs nothing. A camera's next frame is not taken before `finish`, so that its frames
    stay in order and what is kept for it is in one thread's hands.

    Args:
        cameras: names.
        pairing: of every mailbox.
    """

    def __init__(self, cameras: Sequence[str], pairing: Pairing = "latest") -> None:
        self._changed = threading.Condition()
        self._open = True
        # In the order of their last turns.
        self._boxes = OrderedDict((camera, Mailbox(pairing, self._changed)) for camera in cameras)
        self._in_work: set[str] = set()

    def __getitem__(self, camera: str) -> Mailbox:
        return self._boxes[camera]

    def take(self) -> tuple[str, Frame] | None:
        """Wait for a frame and take it out, with the name of its camera; None once `close` was called."""
        with self._changed:
            while self._open:
                # Before looking, so that patience which runs out meanwhile is not slept through.
                patience = [left for box in self._boxes.values() if (left := box.patience)]
                for camera, box in self._boxes.items():
                    frame = None if camera in self._in_work else box.take()
                    if frame is not None:
                        self._boxes.move_to_end(camera)
                        self._in_work.add(camera)
                        return camera, frame
                self._changed.wait(min(patience, default=None))
            return None

    def finish(self, camera: str) -> None:
        """Say that the frame taken of `camera` is done with."""
        with self._changed:
            self._in_work.remove(camera)
            self._changed.notify()

    def close(self) -> None:
        """Let `take` return None from now on."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


def stamp_of(message: Any) -> int:
    """Nanoseconds of a message's header stamp."""
    return nanoseconds(message.header.stamp)

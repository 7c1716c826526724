"""How an image of any aspect is put into an engine's input, and how the answer is put back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel

Fit = Literal["crop", "letterbox"]

# Aspects nearer than this are fitted by stretching alone: the network cannot tell, and no pixel goes unanswered.
MAX_STRETCH = 1.05


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: top-left corner and size."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices of an array."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


class Framing:
    """Maps the window `source` of a camera image onto the window `target` of the engine's input.

    With "crop", the engine sees the largest part of the image that has its aspect: columns centred on the principal
    point; rows so that the horizon (taken as the principal point's row) keeps its relative height. With "letterbox",
    it sees the whole image, with black bars around it. An image whose aspect is within 5 % of the engine's is stretched
    whole in both cases.

    Args:
        camera: of the image as it comes.
        height, width: of the engine's input in pixels.
        fit: "crop" or "letterbox".

    Attributes:
        source: window of the image that the engine sees.
        target: window of the engine's input that shows it.
        camera: of the engine's input, cropped and resized as the pixels are.
        multiple: size (width, height) that the window is brought to before its pixels are averaged to the target's.
    """

    def __init__(self, camera: CameraModel, height: int, width: int, fit: Fit = "crop") -> None:
        self.source = Window(0, 0, camera.width, camera.height)
        self.target = Window(0, 0, width, height)
        ratio = (camera.width / camera.height) / (width / height)
        if max(ratio, 1 / ratio) > MAX_STRETCH:
            if fit == "crop":
                self.source = _crop_window(camera, width / height)
            elif fit == "letterbox":
                self.target = _letterbox_window(camera, width, height)
            else:
                raise ValueError(f"fit is {fit!r}, expected 'crop' or 'letterbox'")
        seen = camera.cropped(self.source.x, self.source.y, self.source.width, self.source.height)
        seen = seen.resized(self.target.width, self.target.height)
        self.camera = seen.cropped(-self.target.x, -self.target.y, width, height)
        self.image_size = camera.width, camera.height
        self.multiple = _multiple(self.source, self.target)
        self._input = np.zeros((height, width, 3), np.uint8)

    def to_engine(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The engine's input for `image` (H, W, 3): uint8 (height, width, 3). The buffer is used again next time."""
        rows, columns = self.target.slices
        # Rows of a letterboxed target are contiguous only when it spans the width, and cv2 wants its own dst then.
        size = (self.target.width, self.target.height)
        window = image[self.source.slices]
        if self.multiple != (self.source.width, self.source.height):
            window = cv2.resize(window, self.multiple, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        if self.multiple == size:
            self._input[rows, columns] = window
        elif size == (self._input.shape[1], self._input.shape[0]):
            cv2.resize(window, size, dst=self._input, interpolation=cv2.INTER_AREA)
        else:
            self._input[rows, columns] = cv2.resize(window, size, interpolation=cv2.INTER_AREA)
        return self._input

    def to_image(self, plane: NDArray[np.float32], out: NDArray[np.float32], outside: float) -> None:
        """Put an engine-sized float32 plane back at the image's size.

        Bilinear; a NaN spreads to every pixel it would have been mixed into, which is what an untrusted neighbour
        should do. Pixels that the engine did not see become `outside`.

        Args:
            plane: (height, width) of the engine.
            out: (H, W) of the image, written whole.
            outside: value of pixels without an answer.
        """
        answer = plane[self.target.slices]
        size = (self.source.width, self.source.height)
        if size == self.image_size:
            cv2.resize(answer, size, dst=out, interpolation=cv2.INTER_LINEAR)
            return
        out.fill(outside)
        out[self.source.slices] = cv2.resize(answer, size, interpolation=cv2.INTER_LINEAR)


def _multiple(source: Window, target: Window) -> tuple[int, int]:
    """The size (width, height) that pixels of `source` are brought to by bilinear sampling, before averaging.

    Shrinking by area keeps thin structures that bilinear sampling would alias away. OpenCV is slow at it where the
    ratio is not whole, so the image is first brought to a multiple of the target: a KITTI image is then within two grey
    levels of what it was, in a third of the time. Enlarging has no area: the multiple is the target itself.
    """
    if source.width <= target.width:
        return target.width, target.height
    return (
        target.width * _whole_ratio(source.width, target.width),
        target.height * _whole_ratio(source.height, target.height),
    )


def _whole_ratio(pixels: int, target: int) -> int:
    # Rounded up, because enlarging loses nothing, but for the little that bilinear sampling shrinks without skipping.
    return max(1, math.ceil(pixels / target - 0.2))


def _crop_window(camera: CameraModel, aspect: float) -> Window:
    if camera.width / camera.height > aspect:
        width = max(1, round(camera.height * aspect))
        return Window(_clamp(round(camera.cx - (width - 1) / 2), camera.width - width), 0, width, camera.height)
    height = max(1, round(camera.width / aspect))
    horizon = (camera.cy + 0.5) / camera.height
    return Window(0, _clamp(round(camera.cy + 0.5 - horizon * height), camera.height - height), camera.width, height)


def _letterbox_window(camera: CameraModel, width: int, height: int) -> Window:
    scale = min(width / camera.width, height / camera.height)
    w, h = (max(1, round(side * scale)) for side in (camera.width, camera.height))
    return Window((width - w) // 2, (height - h) // 2, w, h)


def _clamp(value: int, highest: int) -> int:
    return max(0, min(value, highest))

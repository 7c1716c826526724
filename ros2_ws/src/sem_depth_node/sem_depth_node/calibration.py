"""What camera_info means for the images that come with it: their camera, and whether they are rectified first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel
from sem_depth_node.camera_info import camera_from_info, camera_of_image
from sem_depth_node.rectification import Rectification, rectification_from_info

RectificationMode = Literal["here", "upstream", "none"]


@dataclass(frozen=True)
class Calibration:
    """How images of one camera_info are to be taken.

    Attributes:
        camera: of the images once rectified.
        rectification: what rectifies them; None where there is nothing to do.
        from_projection: `camera` comes from P of the camera_info, not from K.
    """

    camera: CameraModel
    rectification: Rectification | None
    from_projection: bool

    def rectify(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image that `camera` sees; `image` itself where there is nothing to rectify."""
        return image if self.rectification is None else self.rectification.rectify(image)


class CalibrationReader:
    """Reads camera_infos, one after another; a repeated one costs nothing.

    Args:
        mode: "here" rectifies images whose camera_info has distortion; "upstream" says that they are rectified already
            although camera_info describes the raw camera too, so P counts; "none" takes K and leaves distortion alone.
    """

    def __init__(self, mode: RectificationMode) -> None:
        self.mode = mode
        self._key: object = None
        self._calibration: Calibration | None = None

    def read(self, info: Any, width: int, height: int) -> Calibration:
        """The calibration of images of `width` x `height` pixels that come with `info`, a sensor_msgs/CameraInfo.

        Raises:
            BadInput: `info` is not a calibration, or not one of such images.
        """
        key = (width, height, *_contents(info))
        if self._calibration is None or key != self._key:
            self._calibration = self._read(info, width, height)
            self._key = key
        return self._calibration

    def _read(self, info: Any, width: int, height: int) -> Calibration:
        upstream = self.mode == "upstream"
        camera = camera_of_image(camera_from_info(info, rectified=upstream), width, height)
        rectification = rectification_from_info(info, width, height) if self.mode == "here" else None
        if rectification is None:
            return Calibration(camera, None, upstream)
        return Calibration(rectification.camera, rectification, True)


def _contents(info: Any) -> tuple[object, ...]:
    """All of a camera_info but its header, as values that compare."""
    roi = info.roi
    return (
        info.width,
        info.height,
        info.distortion_model,
        *(tuple(numbers) for numbers in (info.d, info.k, info.r, info.p)),
        (info.binning_x, info.binning_y),
        (roi.x_offset, roi.y_offset, roi.width, roi.height),
    )

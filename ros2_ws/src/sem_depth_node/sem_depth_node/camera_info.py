"""From sensor_msgs/CameraInfo to a camera model, and to the camera of an image of another size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from sem_depth_node.bad_input import BadInput
from sem_depth_node.camera import CameraModel

# A camera_info of another size than the image is scaled to it while the aspects differ by no more than this.
ASPECT_TOLERANCE = 0.01


class CameraInfoMessage(Protocol):
    """The fields of sensor_msgs/CameraInfo that matter here."""

    width: int
    height: int
    distortion_model: str
    d: Sequence[float]
    k: Sequence[float]
    p: Sequence[float]
    binning_x: int
    binning_y: int
    roi: Any


def camera_from_info(info: CameraInfoMessage, rectified: bool = False) -> CameraModel:
    """The camera of the images that come with `info`.

    A region of interest and binning are applied (REP 104), so the size is that of the image, not of the sensor.

    Args:
        info: the message.
        rectified: the image is rectified: take the left 3x3 of P and no distortion, instead of K and D.

    Raises:
        BadInput: `camera_info_invalid` for zero, negative or non-finite numbers where intrinsics belong, or a region
            or binning that leaves no image.
    """
    name, matrix, columns = ("P", info.p, 4) if rectified else ("K", info.k, 3)
    fx, cx, fy, cy = matrix[0], matrix[2], matrix[columns + 1], matrix[columns + 2]
    if not (fx > 0 and fy > 0 and all(map(math.isfinite, (fx, fy, cx, cy)))):
        hint = ""
        if not rectified and info.p[0] > 0:
            hint = " (P is filled: for rectified images, --rectified or parameter rectification:=upstream takes it)"
        raise BadInput(
            "camera_info_invalid",
            f"camera_info {name} holds fx={fx:g}, fy={fy:g}, cx={cx:g}, cy={cy:g}, expected finite numbers and "
            f"positive focal lengths: is the camera calibrated?{hint}",
        )
    if info.width == 0 or info.height == 0:
        raise BadInput(
            "camera_info_invalid",
            f"camera_info width x height is {info.width}x{info.height}, expected the size of the calibrated image",
        )
    distortion = () if rectified or not any(info.d) else tuple(info.d)
    if not all(map(math.isfinite, distortion)):
        raise BadInput("camera_info_invalid", f"camera_info D holds {distortion}, expected finite numbers")
    camera = CameraModel(
        info.width, info.height, fx, fy, cx, cy, info.distortion_model if distortion else "", distortion
    )
    roi = info.roi
    if any((roi.x_offset, roi.y_offset, roi.width, roi.height)):
        inside = roi.x_offset + roi.width <= info.width and roi.y_offset + roi.height <= info.height
        if not (roi.width and roi.height and inside):
            raise BadInput(
                "camera_info_invalid",
                f"camera_info roi is {roi.width}x{roi.height} at ({roi.x_offset}, {roi.y_offset}), expected a part of "
                f"the calibrated {info.width}x{info.height}, in its pixels before binning, or all zero",
            )
        camera = camera.cropped(roi.x_offset, roi.y_offset, roi.width, roi.height)
    binning_x, binning_y = max(info.binning_x, 1), max(info.binning_y, 1)
    if (binning_x, binning_y) != (1, 1):
        width, height = camera.width // binning_x, camera.height // binning_y
        if not (width and height):
            raise BadInput(
                "camera_info_invalid",
                f"camera_info binning is {binning_x}x{binning_y} for {camera.width}x{camera.height} pixels, "
                "which leaves none",
            )
        # Pixels that do not fill a bin are left out at the right and below.
        camera = camera.cropped(0, 0, width * binning_x, height * binning_y).resized(width, height)
    return camera


def camera_of_image(camera: CameraModel, width: int, height: int) -> CameraModel:
    """`camera` for an image of `width` x `height`: itself, or scaled where the aspect fits within 1 %.

    Raises:
        BadInput: `camera_info_size` when the aspect differs, because then the image was cropped nobody knows where.
    """
    if (camera.width, camera.height) == (width, height):
        return camera
    ratio = (width / height) / (camera.width / camera.height)
    if max(ratio, 1 / ratio) > 1 + ASPECT_TOLERANCE:
        raise BadInput(
            "camera_info_size",
            f"camera_info is for {camera.width}x{camera.height}, the image has {width}x{height}: another aspect, so "
            "scaling the intrinsics would be wrong; publish the camera_info of this image",
        )
    return camera.resized(width, height)

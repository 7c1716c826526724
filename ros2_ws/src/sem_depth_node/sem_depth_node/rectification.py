"""From the image of a camera with lens distortion to the image a pinhole camera would have taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bad_input import BadInput
from sem_depth_node.camera import CameraModel
from sem_depth_node.camera_info import CameraInfoMessage, camera_from_info, camera_of_image

# Lens models of sensor_msgs/distortion_models.hpp, how many coefficients each may have, and whether it is a fisheye.
# ("fisheye" is how some drivers spell equidistant. 12 and 14 coefficients are OpenCV's thin prism and tilted sensor.)
_MODELS = {
    "plumb_bob": ((4, 5), False),
    "rational_polynomial": ((8, 12, 14), False),
    "equidistant": ((4,), True),
    "fisheye": ((4,), True),
}

# Where the map sends pixels without a source: far enough out that no interpolation reaches the image.
_NOWHERE = -2.0

Pixels = NDArray[np.uint8]


class RectifiableInfo(CameraInfoMessage, Protocol):
    """The fields of sensor_msgs/CameraInfo that rectification needs."""

    r: Sequence[float]


class Rectification:
    """Rectifies the images of one camera; the map is computed once.

    Args:
        camera: of the images as they come, with its distortion.
        rectified: the camera to rectify to. Without one, focal lengths and principal point stay as they are, so that
            the resolution at the centre does too.
        rotation: 3x3, from the camera's optical frame to the rectified one (R of camera_info); None is none.

    Attributes:
        camera: of the rectified images, without distortion.

    Raises:
        BadInput: `unknown_distortion_model`, or `camera_info_invalid` for coefficients or a rotation that cannot be.
    """

    def __init__(
        self,
        camera: CameraModel,
        rectified: CameraModel | None = None,
        rotation: NDArray[np.floating] | None = None,
    ) -> None:
        _check_model(camera)
        self.camera = replace(rectified or camera, distortion_model="", distortion=())
        self._source = camera
        self._rotation = np.eye(3) if rotation is None else _checked_rotation(rotation)
        u, v, seen = self._trace(self.camera)
        # cv2.remap works fastest from fixed-point maps.
        self._map = cv2.convertMaps(
            np.where(seen, u, _NOWHERE).astype(np.float32), np.where(seen, v, _NOWHERE).astype(np.float32), cv2.CV_16SC2
        )
        self._image = np.empty((self.camera.height, self.camera.width, 3), np.uint8)
        self._unseen: tuple[CameraModel, NDArray[np.bool_]] = (self.camera, ~seen)

    def rectify(self, image: Pixels) -> Pixels:
        """The rectified image of uint8 (H, W, 3); black where `image` does not reach. The next call uses it again.

        Raises:
            ValueError: `image` does not have the size of the camera it should be rectified for.
        """
        if image.shape != (expected := (self._source.height, self._source.width, 3)):
            raise ValueError(f"image has shape {image.shape}, expected {expected} as its camera says")
        return cv2.remap(image, *self._map, cv2.INTER_LINEAR, dst=self._image)  # type: ignore[return-value]

    def mark_unseen(self, depth: NDArray[np.float32], confidence: NDArray[np.float32], camera: CameraModel) -> None:
        """Make depth NaN and confidence 0, in place, where the camera did not see: there the image was made black.

        Args:
            depth, confidence: float32 (H, W).
            camera: of these arrays; crops and resizes of the rectified camera are welcome.
        """
        if self._unseen[0] != camera:
            self._unseen = camera, ~self._trace(camera)[2]
        np.copyto(depth, np.float32(np.nan), where=self._unseen[1])
        np.copyto(confidence, np.float32(0), where=self._unseen[1])

    def _trace(self, camera: CameraModel) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Where in the source image each pixel of a pinhole `camera` in the rectified frame is seen.

        Returns:
            (H, W) arrays: column and row in the source image, and whether that is inside it.
        """
        source, size = self._source, (camera.width, camera.height)
        distortion = np.array(source.distortion or (0.0,) * 4)
        of_model = cv2.fisheye if _is_fisheye(source) else cv2
        u, v = of_model.initUndistortRectifyMap(source.K, distortion, self._rotation, camera.K, size, cv2.CV_32FC1)
        slopes_x, slopes_y = camera.ray_slopes()
        to_source = self._rotation.T.astype(np.float32)
        x, y, z = (row[0] * slopes_x + row[1] * slopes_y[:, None] + row[2] for row in to_source)
        inside = (u >= -0.5) & (u <= source.width - 0.5) & (v >= -0.5) & (v <= source.height - 0.5)
        # Compared without dividing, so that rays beside and behind the camera need no care.
        return u, v, inside & (z > 0) & (np.hypot(x, y) < _widest_slope(source) * z)


def rectification_from_info(info: RectifiableInfo, width: int, height: int) -> Rectification | None:
    """What rectifies images of `width` x `height` that come with `info`, or None where there is nothing to rectify.

    A camera without distortion is a pinhole camera already. The rectified camera is that of P and R; where P is not
    filled, that of K.

    Raises:
        BadInput: `info` is not a calibration, or not one of such images.
    """
    camera = camera_of_image(camera_from_info(info), width, height)
    if not camera.distortion:
        return None
    rectified = camera_of_image(camera_from_info(info, rectified=True), width, height) if info.p[0] > 0 else None
    return Rectification(camera, rectified, np.reshape(info.r, (3, 3)) if any(info.r) else None)


def _check_model(camera: CameraModel) -> None:
    if not camera.distortion:
        return
    if camera.distortion_model not in _MODELS:
        raise BadInput(
            "unknown_distortion_model",
            f"camera_info distortion_model is {camera.distortion_model!r}, expected one of {', '.join(_MODELS)}: "
            "rectify the images before, or correct the name",
        )
    counts, _ = _MODELS[camera.distortion_model]
    if len(camera.distortion) not in counts:
        raise BadInput(
            "camera_info_invalid",
            f"camera_info D has {len(camera.distortion)} coefficients, expected {' or '.join(map(str, counts))} "
            f"for {camera.distortion_model}",
        )


def _checked_rotation(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    rotation = np.asarray(matrix, np.float64)
    # Calibration files are rounded to six digits or so.
    if not (np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0):
        raise BadInput("camera_info_invalid", f"camera_info R is {rotation.tolist()}, expected a rotation matrix")
    return rotation


def _is_fisheye(camera: CameraModel) -> bool:
    return bool(camera.distortion) and _MODELS[camera.distortion_model][1]


def _widest_slope(camera: CameraModel) -> float:
    """Tangent of the largest angle off the optical axis at which the lens model is still one to one.

    Distortion is a polynomial in the angle (fisheye) or its tangent. Fitted inside the image, it may turn back outside,
    and would then show the image a second time, mirrored.
    """
    if not camera.distortion:
        return np.inf
    k = camera.distortion
    angle = np.linspace(0, np.pi / 2, 4096, endpoint=False)
    if _is_fisheye(camera):
        radius = angle * (1 + sum(ki * angle ** (2 * i) for i, ki in enumerate(k, start=1)))
    else:
        k1, k2, _, _, k3, k4, k5, k6 = (*k, *(0.0,) * 8)[:8]
        r2 = np.tan(angle) ** 2
        radius = np.tan(angle) * (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    turns = np.flatnonzero(np.diff(radius) <= 0)
    return float(np.tan(angle[turns[0]])) if turns.size else np.inf

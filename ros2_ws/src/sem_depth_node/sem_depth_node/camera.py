"""A pinhole camera: intrinsics, and what resizing and cropping an image does to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CameraModel:
    """Intrinsics of one image. Hashable, so that what is computed from a camera can be kept by it.

    Pixel coordinates count from the centre of the top-left pixel, (0, 0), as OpenCV and ROS do. The optical frame is
    z forward, x right, y down (REP 103).

    Args:
        width, height: image size in pixels.
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels.
        distortion_model: name of the lens model as in sensor_msgs/CameraInfo, "" for a rectified image.
        distortion: coefficients of that model.

    Raises:
        ValueError: a size or focal length that is not positive, or a number that is not finite.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: str = ""
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"camera image size is {self.width}x{self.height}, expected both positive")
        if not all(map(math.isfinite, (self.fx, self.fy, self.cx, self.cy, *self.distortion))):
            raise ValueError(f"camera intrinsics hold a number that is not finite: {self}")
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"camera focal lengths are fx={self.fx}, fy={self.fy}, expected both positive")

    @property
    def focal_length(self) -> float:
        """Geometric mean of fx and fy in pixels: the one focal length that scales canonical depth to metres."""
        return math.sqrt(self.fx * self.fy)

    @property
    def K(self) -> NDArray[np.float64]:
        """The 3x3 camera matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def resized(self, width: int, height: int) -> CameraModel:
        """The camera of the same image resized to `width` x `height` pixels.

        Resizing keeps image corners on image corners, so it is the half-pixel-shifted coordinate that scales:
        cx' = (cx + 0.5) * s - 0.5 (the convention of `cv2.resize`).
        """
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )

    def cropped(self, x: int, y: int, width: int, height: int) -> CameraModel:
        """The camera of the window whose top-left pixel is (x, y). Negative x, y pad instead."""
        return replace(self, width=width, height=height, cx=self.cx - x, cy=self.cy - y)

    def ray_slopes(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """X/Z of every column, shape (width,), and Y/Z of every row, shape (height,): a pixel's ray is (x, y, 1).

        Distortion is not applied: rectify first.
        """
        x = (np.arange(self.width) - self.cx) / self.fx
        y = (np.arange(self.height) - self.cy) / self.fy
        return x.astype(np.float32), y.astype(np.float32)

    def project(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Pixel coordinates (N, 2) of points (N, 3) in the optical frame, metres; NaN for points not in front."""
        xyz = np.asarray(points, dtype=np.float64)
        z = np.where(xyz[:, 2] > 0, xyz[:, 2], np.nan)
        return np.stack((self.fx * xyz[:, 0] / z + self.cx, self.fy * xyz[:, 1] / z + self.cy), axis=1)

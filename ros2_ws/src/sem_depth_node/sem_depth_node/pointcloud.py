"""Depth and colour to an organised point cloud."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel

POINT_STEP = 16  # bytes: x, y, z float32 and rgb packed into a float32


class PointCloudBuilder:
    """Builds clouds for one camera into one buffer.

    Args:
        camera: of the depth images, rectified.
    """

    def __init__(self, camera: CameraModel) -> None:
        self.camera = camera
        x, y = camera.ray_slopes()
        self._x, self._y = x[np.newaxis, :], y[:, np.newaxis]
        shape = (camera.height, camera.width)
        self._planes = [np.empty(shape, np.float32) for _ in range(3)]
        self._bgr0 = np.zeros((*shape, 4), np.uint8)
        self._cloud = np.empty((*shape, 4), np.float32)

    def build(self, depth: NDArray[np.float32], rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The cloud of a depth image.

        Args:
            depth: (H, W) metres along Z; NaN and +Inf allowed.
            rgb: (H, W, 3) uint8.

        Returns:
            float32 (H, W, 4): x, y, z in metres in the optical frame (z forward, x right, y down) and the colour as
            PCL packs it, 0x00RRGGBB in the bits of a float32. x, y, z are NaN where depth is not finite. The buffer
            belongs to the builder and is written again by the next call.
        """
        x, y, z = self._planes
        with np.errstate(invalid="ignore"):
            np.subtract(depth, depth, out=z)  # 0 where finite, NaN where NaN or infinite
        np.add(z, depth, out=z)
        np.multiply(z, self._x, out=x)
        np.multiply(z, self._y, out=y)
        cv2.mixChannels([rgb], [self._bgr0], [0, 2, 1, 1, 2, 0])
        # Merged as integers: a float copy may alter the bits of a colour that happens to spell a signalling NaN.
        planes = [plane.view(np.int32) for plane in (x, y, z)]
        cv2.merge([*planes, self._bgr0.view(np.int32)[..., 0]], dst=self._cloud.view(np.int32))
        return self._cloud

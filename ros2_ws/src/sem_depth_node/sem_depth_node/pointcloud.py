"""Depth and colour to an organised point cloud."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel

POINT_STEP = 16  # bytes: x, y, z float32 and rgb packed into a float32


# Rows worked on at once take about this much memory with their points, so that all steps find them in the processor's
# cache. Fewer rows, and the steps' own cost shows.
_BLOCK_BYTES = 2_000_000
_WITHOUT_ALPHA = np.int32(0x00FFFFFF)


class PointCloudBuilder:
    """Builds clouds for one camera.

    Args:
        camera: of the depth images, rectified.
    """

    def __init__(self, camera: CameraModel) -> None:
        self.camera = camera
        x, y = camera.ray_slopes()
        self._x, self._y = x[np.newaxis, :], y[:, np.newaxis]
        rows = max(1, min(camera.height, _BLOCK_BYTES // (2 * POINT_STEP * camera.width)))
        # x, y, z and colour. Integers: a float copy may alter the bits of a colour that spells a signalling NaN.
        self._planes = [np.empty((rows, camera.width), np.int32) for _ in range(4)]

    def build(
        self, depth: NDArray[np.float32], rgb: NDArray[np.uint8], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The cloud of a depth image.

        Args:
            depth: (H, W) metres along Z; NaN and +Inf allowed.
            rgb: (H, W, 3) uint8.
            out: C-contiguous float32 (H, W, 4) to write into; None makes one.

        Returns:
            float32 (H, W, 4): x, y, z in metres in the optical frame (z forward, x right, y down) and the colour as
            PCL packs it, 0x00RRGGBB in the bits of a float32. x, y, z are NaN where depth is not finite.
        """
        if out is None:
            out = np.empty((self.camera.height, self.camera.width, 4), np.float32)
        packed = out.view(np.int32)
        block = len(self._planes[0])
        for top in range(0, self.camera.height, block):
            rows = slice(top, top + block)
            planes = [plane[: len(depth[rows])] for plane in self._planes]
            x, y, z = (plane.view(np.float32) for plane in planes[:3])
            with np.errstate(invalid="ignore"):
                np.subtract(depth[rows], depth[rows], out=z)  # 0 where finite, NaN where NaN or infinite
            np.add(z, depth[rows], out=z)
            np.multiply(z, self._x, out=x)
            np.multiply(z, self._y[rows], out=y)
            colour = planes[3]
            cv2.cvtColor(rgb[rows], cv2.COLOR_RGB2BGRA, dst=colour.view(np.uint8).reshape(*colour.shape, 4))
            np.bitwise_and(colour, _WITHOUT_ALPHA, out=colour)
            cv2.merge(planes, dst=packed[rows])
        return out

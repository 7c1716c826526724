"""A LiDAR scan as the sparse depth image that a camera would have measured."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel

# A point is hidden where another one, within these pixels at KITTI's focal length, is nearer than this share of its
# depth. 6 rows bridge the gap between the beams of a 64-beam scanner.
HIDDEN_BEHIND = 0.75
_COLUMNS, _ROWS, _FOCAL_LENGTH = 3, 6, 721.5377


def sparse_depth(points: NDArray[np.float64], camera: CameraModel) -> NDArray[np.float32]:
    """Project points into the image; where several fall onto a pixel, the nearest counts.

    Args:
        points: (N, 3) metres in the camera's optical frame.
        camera: rectified.

    Returns:
        float32 (H, W) metres along Z, 0 where there is no point.
    """
    pixels = camera.project(points)
    ahead = np.isfinite(pixels).all(axis=1)
    columns, rows = np.rint(pixels[ahead]).T
    inside = (columns >= 0) & (columns < camera.width) & (rows >= 0) & (rows < camera.height)
    depth = np.full((camera.height, camera.width), np.inf)
    np.minimum.at(depth, (rows[inside].astype(int), columns[inside].astype(int)), points[ahead][inside, 2])
    depth[np.isinf(depth)] = 0
    return depth.astype(np.float32)


def remove_hidden(depth: NDArray[np.float32], camera: CameraModel) -> NDArray[np.float32]:
    """Drop what the LiDAR sees past an object but the camera, mounted elsewhere, does not.

    The background shows between the points of an object in front of it. A point is dropped where one within a window
    of the angular size of 7 x 13 pixels in KITTI's images is nearer than 75 % of its depth.

    Args:
        depth: (H, W) as from `sparse_depth`.
        camera: of `depth`.

    Returns:
        float32 (H, W), 0 where there is no point or a hidden one.
    """
    columns = max(1, round(_COLUMNS * camera.fx / _FOCAL_LENGTH))
    rows = max(1, round(_ROWS * camera.fy / _FOCAL_LENGTH))
    window = np.ones((2 * rows + 1, 2 * columns + 1), np.uint8)
    far = np.float32(np.finfo(np.float32).max)
    nearest = cv2.erode(np.where(depth > 0, depth, far), window, borderType=cv2.BORDER_CONSTANT, borderValue=float(far))
    return np.where(nearest < HIDDEN_BEHIND * depth, np.float32(0), depth)

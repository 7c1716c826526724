"""The floor: depth told from the viewing direction alone, which every network must beat to have seen anything."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel
from sem_depth_training.data.frames import Frame
from sem_depth_training.evaluate import Prediction
from sem_depth_training.nearest import fill_from_nearest

_REACH = 2.0  # slope of the outermost rays that are told apart
_CELL = 0.01  # slope: 7 pixels of a KITTI camera
_CELLS = round(2 * _REACH / _CELL)


@dataclass(frozen=True)
class DirectionFloor:
    """Median measured depth by viewing direction; as a `Predict` it does not look at the image.

    cells float32 [CELLS, CELLS] metres, by the slopes y and x of the ray.
    """

    cells: NDArray[np.float32]

    def __call__(self, image: NDArray[np.uint8], camera: CameraModel) -> Prediction:
        x, y = camera.ray_slopes()
        depth = self.cells[_cell(y)[:, None], _cell(x)[None, :]]
        return Prediction(depth, np.zeros_like(depth))


def direction_floor(frames: Sequence[Frame]) -> DirectionFloor:
    """The floor that training frames give. Directions in which nothing was measured take the nearest one's depth."""
    cells, depths = [], []
    for frame in frames:
        depth = frame.read_depth()
        x, y = frame.camera.ray_slopes()
        v, u = np.nonzero(depth > 0)
        cells.append((_cell(y)[v] * _CELLS + _cell(x)[u]).astype(np.int32))
        depths.append(depth[v, u])
    cell, depth = np.concatenate(cells), np.concatenate(depths)
    order = np.lexsort((depth, cell))  # by cell, and by depth within it
    cell, depth = cell[order], depth[order]
    found, first, count = np.unique(cell, return_index=True, return_counts=True)
    medians = np.zeros(_CELLS * _CELLS, np.float32)
    medians[found] = (depth[first + (count - 1) // 2] + depth[first + count // 2]) / 2
    return DirectionFloor(fill_from_nearest(medians.reshape(_CELLS, _CELLS), 0.0))


def _cell(slope: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.clip(((slope + _REACH) / _CELL).astype(np.int64), 0, _CELLS - 1)

"""A simulated spinning LiDAR with the ring angles of Velodyne's HDL-64E."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class RingBlock:
    """Rings of equal spacing: elevations of the first and last ring, degrees."""

    top: float
    bottom: float
    rings: int


# HDL-64E user manual: an upper block 1/3 degree apart and a lower block 1/2 degree apart
HDL_64E = (RingBlock(2.0, -8.33, 32), RingBlock(-8.83, -24.33, 32))
RANGE_NOISE = 0.012  # metres, one standard deviation
MAX_RANGE = 100.0  # metres
QUANTUM = 1 / 256  # metres; the device's own range step is 2 mm
DROP_SHARE = 0.04  # returns lost at random; dark and grazing surfaces far away are lost on top of that


def measured(
    points: npt.NDArray[np.floating[Any]], intensity: npt.NDArray[np.floating[Any]], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """What the device reports of ideal returns: (m, 4) x, y, z, intensity in the LiDAR frame.

    ``points`` (n, 3) in the LiDAR frame. Adds range noise along the ray, drops weak returns, cuts at the range limit,
    rounds to ``QUANTUM`` and intensity to 1/255.
    """
    distance = np.linalg.norm(points, axis=1)
    weakness = (distance / MAX_RANGE) ** 2 * (1 - intensity) * 0.5
    kept = (distance < MAX_RANGE) & (distance > 1.0) & (rng.random(len(points)) > DROP_SHARE + weakness)
    points, intensity, distance = points[kept], intensity[kept], distance[kept]
    noisy = points * (1 + rng.normal(0, RANGE_NOISE, len(points)) / distance)[:, None]
    rounded = np.round(noisy / QUANTUM) * QUANTUM
    return np.concatenate([rounded, np.round(intensity[:, None] * 255) / 255], 1).astype(np.float32)

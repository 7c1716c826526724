"""How far the metric scale of depth is off, judged by LiDAR: robust within a frame, smoothed over frames."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Fewer points than this say little about a frame, fewer frames little about a camera.
MIN_POINTS = 200
MIN_FRAMES = 3
# The scale is the median over this many frames: one that meets something odd (a truck, spray) does not move it.
FRAMES = 15
# Points count from this many times the nearest depth an estimate may have to this part of the farthest. Nearer or
# farther, a wrong scale would push estimates out of the range, those on one side only, and so hide itself.
MARGIN = 2.0
# The standard deviation of normally distributed values that have a median absolute deviation of 1.
_SIGMA_PER_MAD = 1.4826


@dataclass(frozen=True)
class ScaleMeasurement:
    """One depth image against LiDAR.

    Attributes:
        log_ratio: median of ln(LiDAR depth / estimated depth): 0 is right, positive is estimated too near.
        spread: 1.4826 times the median absolute deviation of these logarithms, their standard deviation if they are
            normally distributed. How far single points scatter, not how uncertain the median is.
        points: compared.
    """

    log_ratio: float
    spread: float
    points: int

    @property
    def factor(self) -> float:
        """What the estimated depth must be multiplied by to agree with LiDAR."""
        return math.exp(self.log_ratio)


def measure_scale(
    depth: NDArray[np.float32], lidar: NDArray[np.float32], depth_range: tuple[float, float]
) -> ScaleMeasurement | None:
    """Compare a depth image with what a LiDAR measured in the same pixels.

    Args:
        depth: (H, W) metres along Z, NaN not known, +Inf beyond the range. +Inf counts, as an estimate that is too
            far by an unknown factor: the median can take that.
        lidar: (H, W) metres along Z, 0 where nothing was measured.
        depth_range: nearest and farthest finite value that `depth` can have, metres.

    Returns:
        None where fewer than `MIN_POINTS` can be compared, or where half of the estimates or more are +Inf.
    """
    low, high = MARGIN * depth_range[0], depth_range[1] / MARGIN
    compared = (lidar >= low) & (lidar <= high) & ~np.isnan(depth)
    estimated = depth[compared].astype(np.float64)
    if estimated.size < MIN_POINTS:
        return None
    with np.errstate(divide="ignore"):
        ratios = np.log(lidar[compared] / estimated)
    middle = float(np.median(ratios))
    if not math.isfinite(middle):
        return None
    spread = _SIGMA_PER_MAD * float(np.median(np.abs(ratios - middle)))
    return ScaleMeasurement(middle, spread, int(ratios.size))


class ScaleCheck:
    """The scale of one camera's depth: the median of its last 15 measurements, unknown before the third."""

    def __init__(self) -> None:
        self._log_ratios: deque[float] = deque(maxlen=FRAMES)

    def add(self, log_ratio: float) -> None:
        """Add `ScaleMeasurement.log_ratio` of a frame."""
        self._log_ratios.append(log_ratio)

    @property
    def frames(self) -> int:
        """Measurements that count now."""
        return len(self._log_ratios)

    @property
    def factor(self) -> float | None:
        """What the depth must be multiplied by to agree with LiDAR; None while too few frames were measured."""
        if self.frames < MIN_FRAMES:
            return None
        return math.exp(statistics.median(self._log_ratios))

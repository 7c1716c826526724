"""Depth as a picture for people: colour by inverse depth."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

INVALID_BGR = (0, 0, 0)
BEYOND_RANGE_BGR = (96, 96, 96)

_STEPS = 253  # from the nearest colour to the farthest


class DepthPainter:
    """Paints depth images, red near and blue far, on a scale that does not change from frame to frame.

    The colour (turbo) is linear in inverse depth, as a network's certainty is: `near` metres and less is the red end,
    infinitely far the blue one. Black is invalid (NaN), grey beyond range (+Inf).

    Args:
        near: metres at the red end of the scale.
    """

    def __init__(self, near: float = 3.0) -> None:
        self.near = near
        # Index 0 is NaN, 255 +Inf, the 254 between are the scale from near to far.
        scale = cv2.applyColorMap(np.linspace(255, 0, 254).astype(np.uint8), cv2.COLORMAP_TURBO)
        ends = [np.full((1, 1, 3), colour, np.uint8) for colour in (INVALID_BGR, BEYOND_RANGE_BGR)]
        self._colours = np.vstack((ends[0], scale, ends[1]))

    def paint(self, depth: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write the picture of `depth`, float32 (H, W) metres, into `out`, uint8 (H, W, 3) BGR."""
        with np.errstate(divide="ignore"):
            nearness = np.divide(np.float32(_STEPS * self.near), depth)
        np.minimum(nearness, np.float32(_STEPS), out=nearness)  # NaN passes
        # Rounded and saturated, which makes 0 of NaN. Of 254.51 and less, only +Inf rounds up to 255: any depth nearer
        # than 25 km with the default scale has taken a hundredth away.
        index = cv2.convertScaleAbs(nearness, alpha=-1, beta=254.51)
        cv2.applyColorMap(index, self._colours, dst=out)

"""The sky of frames that come without a sky mask."""

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_CONTRAST = 12
"""Grey levels. Less is smooth: a sky, or a wall on which stereo matching only spreads what its neighbours say."""

_COLUMNS = 32  # pixels; a lidar's lines leave gaps between columns


def sky_mask(image: NDArray[np.uint8], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that are taken for sky, bool [H, W]: blue or blown out, smooth, and joined to the upper border.

    It misses grey skies rather than take a white wall for one. It is wrong for bright facades that reach out of the
    image, so where `other` knows little it deserves a small weight.

    Args:
        image: RGB uint8 [H, W, 3].
        other: bool [H, W], what is something else; see `below_measured` and `near_measured`.
    """
    red, green, blue = (image[..., channel].astype(np.int16) for channel in range(3))
    blown_out = np.minimum(np.minimum(red, green), blue) >= 245
    is_blue = (blue >= 100) & (blue * 5 >= red * 6) & (blue >= green)
    smooth = contrast(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)) < MIN_CONTRAST
    candidates = ((blown_out | is_blue) & smooth & ~other).astype(np.uint8)
    count, labels = cv2.connectedComponents(candidates)
    at_the_top = np.zeros(count, bool)
    at_the_top[np.unique(labels[:3])] = True
    at_the_top[0] = False
    sky: NDArray[np.bool_] = at_the_top[labels]
    return sky


def below_measured(u: NDArray[np.int16], v: NDArray[np.int16], height: int, width: int) -> NDArray[np.bool_]:
    """What is lower than the highest measured pixel near its column: a lidar's beams end below the sky.

    `u` and `v` are columns and rows of what was measured.
    """
    highest = np.full(-(-width // _COLUMNS), height, np.int64)
    np.minimum.at(highest, u // _COLUMNS, v)
    lowest_sky = np.repeat(highest, _COLUMNS)[:width] - 4
    return np.arange(height)[:, None] >= lowest_sky


def near_measured(measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is within 7 pixels of densely measured things; a few measured pixels alone are chance, and do not count."""
    things = cv2.morphologyEx(measured.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    return cv2.dilate(things, np.ones((15, 15), np.uint8)) > 0


def contrast(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Range of grey levels around each pixel of uint8 [H, W], after a little smoothing."""
    smoothed = cv2.GaussianBlur(grey, (5, 5), 0)
    return cv2.morphologyEx(smoothed, cv2.MORPH_GRADIENT, np.ones((9, 9), np.uint8))  # type: ignore[return-value]

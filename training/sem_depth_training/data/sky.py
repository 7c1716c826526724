"""A guess at the sky in frames that come without a sky mask."""

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_training.data.augmentation import DepthPoints

_COLUMNS = 32  # pixels; a lidar's lines leave gaps between columns


def guess_sky(image: NDArray[np.uint8], points: DepthPoints) -> NDArray[np.bool_]:
    """Where RGB uint8 [H, W, 3] is overexposed or blue, joined to the top edge, and above everything measured.

    Lidars see neither the sky nor what is high above the road. Without any hint a network puts the sky anywhere; this
    one is wrong for bright facades that reach out of the image, so it deserves a small weight.
    """
    red, green, blue = (image[..., channel].astype(np.int16) for channel in range(3))
    bright = image.min(axis=2) > 230
    clear = (blue > 80) & (blue * 5 > red * 6) & (blue >= green)
    height, width = bright.shape
    highest = np.full(-(-width // _COLUMNS), height, np.int64)
    np.minimum.at(highest, points.u // _COLUMNS, points.v)
    above = np.arange(height)[:, None] < np.repeat(highest, _COLUMNS)[:width] - 4
    candidates = ((bright | clear) & above).astype(np.uint8)
    candidates = cv2.morphologyEx(candidates, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels = cv2.connectedComponents(candidates)
    touches_top = np.zeros(count, bool)
    touches_top[np.unique(labels[:3])] = True
    touches_top[0] = False
    return touches_top[labels]  # type: ignore[no-any-return]

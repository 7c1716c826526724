"""Gaps in a map filled from what is nearest."""

import cv2
import numpy as np
from numpy.typing import NDArray


def fill_from_nearest(values: NDArray[np.float32], nothing: float) -> NDArray[np.float32]:
    """The map [H, W] with every 0 replaced by the nearest other value in it; `nothing` everywhere where none is."""
    known = values != 0
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.full(int(labels.max()) + 1, nothing, np.float32)
    of_label[labels[known]] = values[known]
    filled: NDArray[np.float32] = of_label[labels]
    return filled

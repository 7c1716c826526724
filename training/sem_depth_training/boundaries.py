"""Depth boundaries: how far predicted ones lie from true ones, on frames with dense depth.

The depth boundary errors of iBims-1 (Koch et al., arXiv 1805.01328): accuracy is the mean distance in pixels from
predicted boundaries to true ones, over those within 10 pixels of one; completeness is the mean distance between the
two, in both directions, with distances cut at 10 pixels. There, boundaries are Canny edges of depth normalised by its
largest value. Outdoors that sees only steps far away, so here they are Canny edges of the logarithm of depth, for
prediction and truth alike: a step counts from a factor of 1.25 (1.12 where it continues a larger one) at any distance.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

REACH = 10.0  # pixels
STRONG, WEAK = 1.25, 1.12  # factors between two sides of a boundary
_SIGMA = float(np.sqrt(2))  # pixels, as in iBims-1
_SEEN = 8  # pixels; how far smoothing (6), derivative and thinning carry what is beside
_UNIT = 2000.0  # cv2.Canny wants 16-bit derivatives


class BoundaryError(NamedTuple):
    """Accuracy and completeness in pixels (0 is best, 10 worst), and the share of true boundary pixels that have a
    predicted one within 3 pixels."""

    accuracy: float
    completeness: float
    found: float


def boundary_error(
    prediction: NDArray[np.float32], truth: NDArray[np.float32], max_depth: float
) -> BoundaryError | None:
    """Boundary errors of one image, None where the truth has no boundary.

    Args:
        prediction: metres [H, W], +Inf beyond range; where it is NaN (not known) or nearly so, nothing is compared.
        truth: metres [H, W], dense; 0 is sky, or too far to be measured.
        max_depth: metres; what is farther is one surface.
    """
    far = np.float32(max_depth)
    true = boundaries(np.where(truth > 0, np.minimum(truth, far), far))
    unknown = np.isnan(prediction)
    known = cv2.dilate(unknown.astype(np.uint8), np.ones((2 * _SEEN + 1, 2 * _SEEN + 1), np.uint8)) == 0
    if not (true & known).any():
        return None
    predicted = boundaries(np.where(unknown, far, np.minimum(prediction, far))) & known
    to_true, to_predicted = _distance(true), _distance(predicted)
    true &= known
    near = predicted & (to_true < REACH)
    accuracy = float(to_true[near].mean()) if near.any() else REACH
    both = np.minimum(np.concatenate([to_true[predicted], to_predicted[true]]), REACH)
    return BoundaryError(accuracy, float(both.mean()), float((to_predicted[true] <= 3).mean()))


def boundaries(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where depth steps, bool [H, W]; depth in metres, positive and finite everywhere."""
    smooth = cv2.GaussianBlur(np.log(np.maximum(depth, 0.1)), (0, 0), _SIGMA, borderType=cv2.BORDER_REPLICATE)
    across, down = (
        cv2.Sobel(smooth, cv2.CV_32F, *order, scale=_UNIT / 8, borderType=cv2.BORDER_REPLICATE)
        for order in ((1, 0), (0, 1))
    )
    # A step of height h, smoothed, has the slope h / (sigma sqrt(2 pi)) in its middle.
    low, high = (np.log(factor) / (_SIGMA * np.sqrt(2 * np.pi)) * _UNIT for factor in (WEAK, STRONG))
    edges = cv2.Canny(across.astype(np.int16), down.astype(np.int16), float(low), float(high), L2gradient=True)
    return np.asarray(edges > 0)


def _distance(edges: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Pixels to the nearest edge; REACH everywhere where there is none."""
    if not edges.any():
        return np.full(edges.shape, REACH, np.float32)
    return np.asarray(cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)

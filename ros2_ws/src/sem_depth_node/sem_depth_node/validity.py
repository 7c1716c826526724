"""What of an estimated depth image is to be trusted, and how much."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

# Confidence is the probability that the true depth lies within this factor of the estimate.
CONFIDENCE_FACTOR = 1.1


def confidence(log_scale: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Probability in 0..1 that the true depth is within 10 % of the estimate.

    The network says that the residual of the logarithm of depth is Laplacian with scale b = exp(log_scale). Its
    absolute value is then exponential, so P(|r| <= log 1.1) = 1 - exp(-log(1.1) / b).

    Args:
        log_scale: (H, W).
        out: (H, W), written. NaN in, 0 out.
    """
    np.subtract(np.float32(math.log(math.log(CONFIDENCE_FACTOR))), log_scale, out=out)
    np.clip(out, -40.0, 40.0, out=out)  # beyond this float32 overflows, and the answer is 0 or 1 long before
    cv2.exp(out, out)
    np.negative(out, out=out)
    cv2.exp(out, out)
    np.subtract(np.float32(1), out, out=out)
    np.fmax(out, np.float32(0), out=out)  # takes 0 where the other is NaN


def mark_impossible(depth: NDArray[np.float32]) -> None:
    """Set to NaN, in place, what no network should say: depth that is not positive or not finite.

    An infinite depth here is an overflow inside the engine, not an answer of "too far".
    """
    np.copyto(depth, np.float32(np.nan), where=~((depth > 0) & (depth < np.inf)))


def mark_flying_pixels(depth: NDArray[np.float32], threshold: float) -> None:
    """Set to NaN the pixels of `depth` that hang between two surfaces.

    Along a depth edge a network blends near and far into points that belong to neither. They show as a change of
    depth, from one neighbour to the other, that no road seen under a flat angle reaches. A plane through the camera's
    horizon changes by 1/v of its depth per row, v being the rows below the horizon, so the default threshold leaves a
    road alone from 5 rows below the horizon on.

    Args:
        depth: float32 (H, W), positive and finite metres or NaN; changed in place.
        threshold: relative change of depth per pixel above which a pixel flies; 0 marks nothing.
    """
    if threshold <= 0:
        return
    inverse = 1.0 / depth
    steepest = np.zeros_like(depth)
    # Central differences of inverse depth: planes are linear in it, so a road far away is not taken for an edge.
    across = inverse[:, 2:] - inverse[:, :-2]
    np.abs(across, out=steepest[:, 1:-1])
    down = inverse[2:] - inverse[:-2]
    np.maximum(steepest[1:-1], np.abs(down, out=down), out=steepest[1:-1])
    steepest *= depth
    depth[steepest > 2.0 * threshold] = np.nan


def apply_range(depth: NDArray[np.float32], min_depth: float, max_depth: float) -> None:
    """Mark what is out of range, in place: nearer than `min_depth` is NaN, farther than `max_depth` is +Inf (REP 117).

    Args:
        depth: float32 (H, W) metres; NaN stays NaN.
        min_depth, max_depth: metres.
    """
    np.copyto(depth, np.float32(np.inf), where=depth > max_depth)
    np.copyto(depth, np.float32(np.nan), where=depth < min_depth)

"""Depth metrics of the KITTI protocol: the one definition for training, bags and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
RANGES = ((0.0, 10.0), (10.0, 20.0), (20.0, 30.0), (30.0, 50.0), (50.0, 80.0), (80.0, 200.0))  # metres


@dataclass
class BinnedError:
    """Errors of all pixels for which some quantity, such as measured depth or image row, is in [low, high)."""

    low: float
    high: float
    pixels: int = 0
    abs_rel_sum: float = 0.0
    squared_sum: float = 0.0
    signed_sum: float = 0.0

    def add(
        self, quantity: NDArray[np.floating], prediction: NDArray[np.floating], truth: NDArray[np.floating]
    ) -> None:
        """Add the pixels of one frame: arrays of one shape, depth in metres."""
        inside = (quantity >= self.low) & (quantity < self.high)
        error = prediction[inside] - truth[inside]
        self.pixels += int(inside.sum())
        self.abs_rel_sum += float(np.sum(np.abs(error) / truth[inside]))
        self.squared_sum += float(np.sum(error**2))
        self.signed_sum += float(np.sum(error))

    def summary(self) -> dict[str, float | int | None]:
        """Bounds, pixels, abs_rel, rmse (m) and bias (m, positive is too far), None where there is no pixel."""
        n = self.pixels
        return {
            "from": self.low,
            "to": self.high,
            "pixels": n,
            "abs_rel": self.abs_rel_sum / n if n else None,
            "rmse": float(np.sqrt(self.squared_sum / n)) if n else None,
            "bias": self.signed_sum / n if n else None,
        }


def garg_crop(height: int, width: int) -> NDArray[np.bool_]:
    """The part of a KITTI image that Garg et al. (arXiv 1603.04992) evaluate, as a mask (height, width)."""
    return _crop(height, width, (0.40810811, 0.99189189, 0.03594771, 0.96405229))


def eigen_crop(height: int, width: int) -> NDArray[np.bool_]:
    """The part of a KITTI image that Eigen et al. (arXiv 1406.2283) evaluate, as a mask (height, width)."""
    return _crop(height, width, (0.3324324, 0.91351351, 0.0359477, 0.96405229))


def evaluation_mask(
    ground_truth: NDArray[np.floating], crop: str = "garg", min_depth: float = 1e-3, max_depth: float = 80.0
) -> NDArray[np.bool_]:
    """Pixels to evaluate: measured, within range, inside the crop.

    Args:
        ground_truth: (H, W) metres, 0 or NaN where nothing was measured.
        crop: "garg", "eigen" or "none".
        min_depth, max_depth: metres, both exclusive, as in the usual KITTI evaluation code.
    """
    mask = (ground_truth > min_depth) & (ground_truth < max_depth)
    if crop == "none":
        return mask
    if crop not in ("garg", "eigen"):
        raise ValueError(f"crop is {crop!r}, expected 'garg', 'eigen' or 'none'")
    return mask & (garg_crop if crop == "garg" else eigen_crop)(*ground_truth.shape)


def depth_metrics(
    prediction: NDArray[np.floating],
    ground_truth: NDArray[np.floating],
    mask: NDArray[np.bool_],
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
) -> dict[str, float]:
    """Metrics of one image over the pixels of `mask` that have a prediction.

    Predictions are clamped to [min_depth, max_depth] as the KITTI protocol does (so +Inf, "too far", counts as
    max_depth); NaN, "not known", is left out and shows in `coverage`.

    Args:
        prediction, ground_truth: (H, W) metres.
        mask: (H, W), the pixels to evaluate, as from `evaluation_mask`.
        min_depth, max_depth: metres.

    Returns:
        abs_rel, sq_rel, rmse (m), rmse_log, log10, silog (x 100, as the KITTI benchmark gives it), delta1..3 (share
        of pixels within a factor 1.25, 1.25^2, 1.25^3), coverage (share of `mask` with a prediction).

    Raises:
        ValueError: shapes differ, or no pixel is left to evaluate.
    """
    if not prediction.shape == ground_truth.shape == mask.shape:
        raise ValueError(f"shapes differ: {prediction.shape=}, {ground_truth.shape=}, {mask.shape=}")
    answered = mask & ~np.isnan(prediction)
    if not answered.any():
        raise ValueError(f"no pixel to evaluate: {int(mask.sum())} measured, none of them with a prediction")
    p = np.clip(prediction[answered].astype(np.float64), min_depth, max_depth)
    t = ground_truth[answered].astype(np.float64)
    error, log_error = p - t, np.log(p) - np.log(t)
    ratio = np.maximum(p / t, t / p)
    return {
        "abs_rel": float(np.mean(np.abs(error) / t)),
        "sq_rel": float(np.mean(error**2 / t)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "rmse_log": float(np.sqrt(np.mean(log_error**2))),
        "log10": float(np.mean(np.abs(log_error)) / np.log(10.0)),
        "silog": float(np.std(log_error) * 100.0),
        "delta1": float(np.mean(ratio < 1.25)),
        "delta2": float(np.mean(ratio < 1.25**2)),
        "delta3": float(np.mean(ratio < 1.25**3)),
        "coverage": int(answered.sum()) / int(mask.sum()),
    }


def median_scaled(
    prediction: NDArray[np.float32], ground_truth: NDArray[np.float32], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """`prediction` times the ratio of medians over the pixels of `mask` with a finite prediction (arXiv 1704.07813).

    Methods without metric scale are evaluated so; of a metric one it tells how much of the error is scale.
    """
    answered = mask & np.isfinite(prediction)
    return prediction * np.float32(np.median(ground_truth[answered]) / np.median(prediction[answered]))


def mean_metrics(images: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over images of each metric, as the KITTI protocol averages.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("no image to average over, expected at least one")
    return {name: float(np.mean([image[name] for image in images])) for name in images[0]}


def _crop(height: int, width: int, edges: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    top, bottom, left, right = edges
    mask = np.zeros((height, width), bool)
    mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    return mask

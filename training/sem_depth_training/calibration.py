"""Whether confidence means what it says: sparsification, and how often depth is right within 10 %."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.validity import CONFIDENCE_FACTOR

FRACTIONS = np.arange(50) / 50  # of pixels taken away
CONFIDENCE_EDGES = np.linspace(0, 1, 11)


@dataclass
class Calibration:
    """Sums over frames.

    Sparsification (Ilg et al., arXiv 1802.07095; for depth Poggi et al., arXiv 2005.06209): take away the least certain
    pixels of an image and see AbsRel of the rest fall. The oracle takes away the worst pixels first. AUSE is the area
    between the two, AURG the area by which confidence beats taking pixels away at random. All are means over images.

    Reliability: of the pixels whose stated confidence is in a bin, the share that is right within 10 %.
    """

    by_confidence: list[NDArray[np.float64]] = field(default_factory=list)
    by_error: list[NDArray[np.float64]] = field(default_factory=list)
    pixels: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(CONFIDENCE_EDGES) - 1))
    stated: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(CONFIDENCE_EDGES) - 1))
    right: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(CONFIDENCE_EDGES) - 1))

    def add(
        self, prediction: NDArray[np.floating], truth: NDArray[np.floating], confidence: NDArray[np.floating]
    ) -> None:
        """Add the evaluated pixels of one image: metres, metres, and 0..1."""
        error = np.abs(prediction - truth) / truth
        self.by_confidence.append(_remaining_error(error, confidence))
        self.by_error.append(_remaining_error(error, -error))
        place = np.clip(np.digitize(confidence, CONFIDENCE_EDGES) - 1, 0, len(self.pixels) - 1)
        within = np.abs(np.log(prediction / truth)) <= np.log(CONFIDENCE_FACTOR)
        self.pixels += np.bincount(place, minlength=len(self.pixels))
        self.stated += np.bincount(place, confidence, minlength=len(self.pixels))
        self.right += np.bincount(place, within, minlength=len(self.pixels))

    def curves(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean AbsRel of what remains after each of FRACTIONS: by confidence, and by the oracle."""
        return _mean(self.by_confidence), _mean(self.by_error)

    def summary(self) -> dict[str, object]:
        """For JSON: ause, aurg (AbsRel), coverage (share within 10 %) beside the mean stated confidence, ece, bins."""
        by_confidence, oracle = self.curves()
        total = self.pixels.sum()
        known = self.pixels > 0
        gap = np.abs(self.right[known] - self.stated[known])
        return {
            "ause": _area(by_confidence - oracle),
            "aurg": _area(by_confidence[0] - by_confidence),
            "coverage": float(self.right.sum() / total),
            "mean_confidence": float(self.stated.sum() / total),
            "ece": float(gap.sum() / total),
            "sparsification": {
                "fraction": FRACTIONS.tolist(),
                "by_confidence": by_confidence.tolist(),
                "oracle": oracle.tolist(),
            },
            "reliability": [
                {"from": low, "to": high, "pixels": int(n), "stated": stated / n, "right": right / n}
                for low, high, n, stated, right in zip(
                    CONFIDENCE_EDGES[:-1].tolist(),
                    CONFIDENCE_EDGES[1:].tolist(),
                    self.pixels.tolist(),
                    self.stated.tolist(),
                    self.right.tolist(),
                    strict=True,
                )
                if n
            ],
        }


def _remaining_error(error: NDArray[np.floating], trust: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean error of the most trusted pixels, for each share of FRACTIONS taken away."""
    ordered = error[np.argsort(-trust, kind="stable")]
    kept = np.maximum(1, np.round((1 - FRACTIONS) * len(error)).astype(np.int64))
    means: NDArray[np.float64] = np.cumsum(ordered, dtype=np.float64)[kept - 1] / kept
    return means


def _mean(curves: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean(curves, axis=0)
    return mean


def _area(curve: NDArray[np.float64]) -> float:
    steps = np.diff(FRACTIONS)
    return float(np.sum(steps * (curve[1:] + curve[:-1]) / 2))

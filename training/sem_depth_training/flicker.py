"""Flicker: how much predicted depth changes from frame to frame beyond what the world does.

The logarithm of predicted over measured depth is the error. Where a pixel was measured in two frames in a row, its
error should stay the same: `local` is the mean |change of error| over those pixels, `scale` the |change of the median
error|, the whole picture breathing. Nothing is assumed of how camera and objects move, so sparse LiDAR will do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Flicker:
    """Means over the pairs of frames that were added, of log-depth: 0.05 is about 5 %."""

    local: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)

    def add(self, errors: Iterable[NDArray[np.float32] | None]) -> None:
        """Add one sequence: each frame's log error [H, W], NaN where not measured; None breaks the sequence."""
        last: NDArray[np.float32] | None = None
        for error in errors:
            if last is not None and error is not None and last.shape == error.shape:
                change = np.abs(error - last)
                if np.isfinite(change).any():
                    self.local.append(float(np.nanmean(change)))
                    self.scale.append(float(abs(np.nanmedian(error) - np.nanmedian(last))))
            last = error

    def summary(self) -> dict[str, float | int] | None:
        """For JSON; None where there were no two frames in a row."""
        if not self.local:
            return None
        return {"pairs": len(self.local), "local": float(np.mean(self.local)), "scale": float(np.mean(self.scale))}


def log_error(
    prediction: NDArray[np.float32], truth: NDArray[np.float32], mask: NDArray[np.bool_], max_depth: float
) -> NDArray[np.float32]:
    """log(prediction / truth) on `mask`, NaN elsewhere and where nothing was predicted; metres [H, W]."""
    error = np.full(truth.shape, np.nan, np.float32)
    error[mask] = np.log(np.clip(prediction[mask], 1e-3, max_depth) / truth[mask])
    return error

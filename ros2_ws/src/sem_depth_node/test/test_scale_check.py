"""The scale that LiDAR finds is the scale that depth is off by, whatever else is wrong with either."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from sem_depth_node.scale_check import FRAMES, MIN_FRAMES, MIN_POINTS, ScaleCheck, measure_scale

RANGE = (0.5, 80.0)
SHAPE = (60, 200)


def scene(seed: int = 0) -> NDArray[np.float32]:
    """True depth, as even over the logarithm as a street is not: from 0.6 to 150 m."""
    return np.exp(np.random.default_rng(seed).uniform(math.log(0.6), math.log(150), SHAPE)).astype(np.float32)


def estimated(truth: NDArray[np.float32], scale: float, noise: float = 0.0) -> NDArray[np.float32]:
    """What a network that is off by `scale` says, as the estimator passes it on."""
    depth = truth * np.float32(scale) * np.exp(np.random.default_rng(1).normal(0, noise, truth.shape))
    depth = np.where(depth < RANGE[0], np.nan, depth)
    return np.where(depth > RANGE[1], np.inf, depth).astype(np.float32)


@pytest.mark.parametrize("scale", [0.55, 0.8, 1.0, 1.25, 1.8])
def test_a_wrong_scale_is_found_although_it_moves_pixels_out_of_range(scale: float) -> None:
    truth = scene()
    found = measure_scale(estimated(truth, scale), truth, RANGE)
    assert found is not None
    assert found.factor == pytest.approx(1 / scale, rel=1e-5)
    assert found.spread == pytest.approx(0, abs=1e-5)


def test_noise_shows_as_spread_and_leaves_the_scale() -> None:
    truth = scene()
    found = measure_scale(estimated(truth, 1.25, noise=0.2), truth, RANGE)
    assert found is not None
    assert found.spread == pytest.approx(0.2, rel=0.05)
    # The median of n normal values scatters by 1.25 sigma / sqrt(n).
    assert found.log_ratio == pytest.approx(-math.log(1.25), abs=4 * 1.25 * 0.2 / math.sqrt(found.points))


def test_a_quarter_of_nonsense_does_not_matter() -> None:
    truth = scene()
    depth = estimated(truth, 0.9, noise=0.02)
    depth[:, ::4] = 3.0  # something right before the camera that the LiDAR sees past
    depth[:, 1::8] = np.nan
    found = measure_scale(depth, truth, RANGE)
    assert found is not None
    assert found.factor == pytest.approx(1 / 0.9, rel=0.05)


def test_only_pixels_that_both_know_are_compared() -> None:
    truth = np.full(SHAPE, 10, np.float32)
    depth = np.full(SHAPE, 10, np.float32)
    depth[:30] = np.nan
    truth[:, :150] = 0  # not measured
    found = measure_scale(depth, truth, RANGE)
    assert found is not None
    assert found.points == 30 * 50


def test_too_few_points_say_nothing() -> None:
    truth = np.zeros(SHAPE, np.float32)
    depth = np.full(SHAPE, 10, np.float32)
    truth.flat[: MIN_POINTS - 1] = 10
    assert measure_scale(depth, truth, RANGE) is None
    truth.flat[MIN_POINTS - 1] = 10
    found = measure_scale(depth, truth, RANGE)
    assert found is not None
    assert found.points == MIN_POINTS


def test_estimates_that_are_mostly_beyond_range_say_nothing() -> None:
    truth = np.full(SHAPE, 10, np.float32)
    assert measure_scale(np.full(SHAPE, np.inf, np.float32), truth, RANGE) is None


def test_the_scale_of_a_camera_waits_for_frames_and_ignores_an_odd_one() -> None:
    check = ScaleCheck()
    for _ in range(MIN_FRAMES - 1):
        check.add(math.log(1.1))
        assert check.factor is None
    check.add(math.log(3))
    assert check.factor == pytest.approx(1.1)
    for _ in range(FRAMES):
        check.add(math.log(0.8))
    assert check.frames == FRAMES
    assert check.factor == pytest.approx(0.8)

"""Confidence, flying pixels and range."""

import numpy as np
import pytest

from sem_depth_node.validity import apply_range, confidence, mark_flying_pixels


def test_confidence_is_the_share_of_laplacian_residuals_within_ten_percent() -> None:
    random = np.random.default_rng(1)
    for scale in (0.02, 0.1, 0.5):
        residuals = random.laplace(scale=scale, size=200_000)
        out = np.empty((1, 1), np.float32)
        confidence(np.full((1, 1), np.log(scale), np.float32), out)
        assert out[0, 0] == pytest.approx(np.mean(np.abs(residuals) < np.log(1.1)), abs=0.005)


def test_confidence_stays_in_range_at_the_extremes() -> None:
    log_scale = np.array([[-1e30, -100, 0, 100, np.inf, -np.inf, np.nan]], np.float32)
    out = np.empty_like(log_scale)
    with np.errstate(all="raise"):
        confidence(log_scale, out)
    assert ((out >= 0) & (out <= 1)).all()
    assert out[0, 0] == 1
    assert out[0, 3] == pytest.approx(0, abs=1e-6)
    assert out[0, 6] == 0


def test_pixels_between_a_car_and_the_wall_behind_it_are_dropped_and_both_surfaces_kept() -> None:
    depth = np.full((20, 40), 30.0, np.float32)
    depth[:, :18] = 8.0
    depth[:, 18:21] = [12.0, 18.0, 25.0]  # the blur a network leaves at an edge
    mark_flying_pixels(depth, 0.2)
    assert np.isnan(depth[:, 18:21]).all()
    assert (depth[:, :17] == 8).all()
    assert (depth[:, 23:] == 30).all()


def test_a_flat_road_is_not_flying() -> None:
    # KITTI's camera at the compact network's resolution: 1.65 m above the road, horizon at row 88.
    rows = np.arange(89, 192, dtype=np.float32)
    road = (1.65 * 371.0 / (rows - 88.0)).astype(np.float32)
    depth = np.repeat(road[:, None], 64, axis=1)
    mark_flying_pixels(depth, 0.2)
    reachable = np.repeat((road < 80)[:, None], 64, axis=1)
    assert not np.isnan(depth[reachable]).any()


def test_threshold_zero_keeps_everything() -> None:
    depth = np.array([[1.0, 100.0, 1.0]], np.float32).repeat(3, axis=0)
    mark_flying_pixels(depth, 0)
    assert not np.isnan(depth).any()


def test_range_marks_near_as_unknown_and_far_as_infinite() -> None:
    depth = np.array([[0.1, 0.5, 80.0, 80.1, np.nan, np.inf]], np.float32)
    apply_range(depth, 0.5, 80.0)
    np.testing.assert_array_equal(depth, np.array([[np.nan, 0.5, 80.0, np.inf, np.nan, np.inf]], np.float32))

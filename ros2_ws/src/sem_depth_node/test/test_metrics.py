"""The KITTI metrics, against numbers worked out by hand."""

import numpy as np
import pytest

from sem_depth_node.metrics import (
    METRICS,
    BinnedError,
    depth_metrics,
    eigen_crop,
    evaluation_mask,
    garg_crop,
    mean_metrics,
    median_scaled,
)


def test_metrics_of_two_pixels_worked_out_by_hand() -> None:
    truth, prediction = np.array([[10.0, 20.0]]), np.array([[11.0, 30.0]])
    found = depth_metrics(prediction, truth, np.ones((1, 2), bool))
    log = np.log([1.1, 1.5])
    assert found["abs_rel"] == pytest.approx((0.1 + 0.5) / 2)
    assert found["sq_rel"] == pytest.approx((1 / 10 + 100 / 20) / 2)
    assert found["rmse"] == pytest.approx(np.sqrt((1 + 100) / 2))
    assert found["rmse_log"] == pytest.approx(np.sqrt((log**2).mean()))
    assert found["log10"] == pytest.approx((np.log10(1.1) + np.log10(1.5)) / 2)
    assert found["silog"] == pytest.approx(100 * np.sqrt((log**2).mean() - log.mean() ** 2))
    assert (found["delta1"], found["delta2"], found["delta3"]) == (0.5, 1.0, 1.0)
    assert found["coverage"] == 1.0
    assert set(METRICS) < set(found)


def test_a_perfect_prediction_scores_perfectly() -> None:
    truth = np.random.default_rng(0).uniform(1, 79, (4, 5))
    found = depth_metrics(truth, truth, np.ones((4, 5), bool))
    assert found["abs_rel"] == found["rmse"] == found["silog"] == 0
    assert found["delta1"] == 1


def test_silog_does_not_see_a_wrong_scale() -> None:
    truth = np.random.default_rng(0).uniform(1, 20, (4, 5))
    found = depth_metrics(truth * 2, truth, np.ones((4, 5), bool))
    assert found["silog"] == pytest.approx(0, abs=1e-6)
    assert found["abs_rel"] == pytest.approx(1)


def test_too_far_counts_as_the_cap_and_unknown_lowers_coverage() -> None:
    truth = np.array([[40.0, 40.0, 40.0, 40.0]])
    found = depth_metrics(np.array([[np.inf, 40.0, np.nan, np.nan]]), truth, np.ones((1, 4), bool))
    assert found["abs_rel"] == pytest.approx((1.0 + 0.0) / 2)
    assert found["coverage"] == 0.5


def test_crops_are_the_published_ones_on_the_kitti_size() -> None:
    # The usual evaluation code takes rows 153:371 and columns 44:1197 (Garg) of a 375x1242 image.
    garg = np.zeros((375, 1242), bool)
    garg[153:371, 44:1197] = True
    np.testing.assert_array_equal(garg_crop(375, 1242), garg)
    assert eigen_crop(375, 1242).any(axis=1).argmax() == int(0.3324324 * 375)


def test_the_mask_leaves_out_unmeasured_and_far_pixels() -> None:
    truth = np.array([[0.0, np.nan, 5.0, 80.0, 100.0]])
    assert evaluation_mask(truth, crop="none").tolist() == [[False, False, True, False, False]]
    with pytest.raises(ValueError, match="'center'"):
        evaluation_mask(truth, crop="center")


def test_nothing_to_evaluate_is_an_error() -> None:
    truth = np.ones((2, 2))
    with pytest.raises(ValueError, match="no pixel to evaluate"):
        depth_metrics(np.full((2, 2), np.nan), truth, truth > 0)
    with pytest.raises(ValueError, match="shapes differ"):
        depth_metrics(np.ones((2, 3)), truth, truth > 0)
    with pytest.raises(ValueError, match="no image"):
        mean_metrics([])


def test_the_mean_is_over_images_not_pixels() -> None:
    assert mean_metrics([{"abs_rel": 0.1}, {"abs_rel": 0.3}]) == {"abs_rel": pytest.approx(0.2)}


def test_median_scaling_takes_scale_errors_away_and_leaves_too_far_as_it_is() -> None:
    truth = np.array([[2.0, 4.0, 8.0, 16.0]], np.float32)
    mask = np.array([[True, True, True, False]])
    prediction = np.array([[1.0, 2.0, 4.0, np.inf]], np.float32)
    np.testing.assert_array_equal(median_scaled(prediction, truth, mask), [[2.0, 4.0, 8.0, np.inf]])


def test_binned_error_takes_the_pixels_of_its_bin_and_sums_frames() -> None:
    part = BinnedError(10.0, 20.0)
    truth = np.array([5.0, 10.0, 20.0])
    part.add(truth, np.array([50.0, 12.0, 90.0]), truth)
    part.add(truth, np.array([50.0, 8.0, 90.0]), truth)
    found = part.summary()
    assert (found["pixels"], found["bias"]) == (2, 0.0)
    assert found["abs_rel"] == pytest.approx(0.2)
    assert found["rmse"] == pytest.approx(2.0)
    assert BinnedError(0.0, 1.0).summary()["abs_rel"] is None

"""Rectified images: what they show is where a pinhole camera would see it, and what was not seen is said."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sem_depth_node.bad_input import BadInput
from sem_depth_node.camera import CameraModel
from sem_depth_node.camera_info import camera_from_info
from sem_depth_node.rectification import Rectification, rectification_from_info

PINHOLE = CameraModel(640, 400, 420.0, 410.0, 322.0, 195.0)
LENSES = {
    "plumb_bob": (-0.28, 0.08, 0.001, -0.0005, -0.01),
    "rational_polynomial": (0.5, -0.2, 0.0004, -0.0003, 0.01, 0.8, -0.15, 0.02),
    "equidistant": (-0.02, 0.004, -0.003, 0.0006),
    "fisheye": (0.03, 0.0, 0.0, 0.0),
}
TILT = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0]


def camera_with(model: str) -> CameraModel:
    return replace(PINHOLE, distortion_model=model, distortion=LENSES[model])


def pixels_seen(camera: CameraModel, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the distorted camera sees points (N, 3) of its optical frame, by the published formulas."""
    x, y = (points[:, :2] / points[:, 2:]).T
    k = camera.distortion
    if camera.distortion_model in ("equidistant", "fisheye"):  # Kannala and Brandt, as in OpenCV's fisheye model
        r = np.hypot(x, y)
        t = np.arctan(r)
        scale = t * (1 + k[0] * t**2 + k[1] * t**4 + k[2] * t**6 + k[3] * t**8) / r
        x, y = x * scale, y * scale
    else:  # Brown and Conrady, with a denominator in the rational model
        k1, k2, p1, p2, k3, k4, k5, k6 = (*k, 0.0, 0.0, 0.0)[:8]
        r2 = x * x + y * y
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )
    return np.stack((x * camera.fx + camera.cx, y * camera.fy + camera.cy), axis=1)


def image_of_spots(pixels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Gaussian spots centred on `pixels`, on black."""
    v, u = np.mgrid[: PINHOLE.height, : PINHOLE.width]
    spots = sum(np.exp(-((u - pu) ** 2 + (v - pv) ** 2) / 8) for pu, pv in pixels)
    return np.repeat((np.asarray(spots)[..., None] * 255).clip(0, 255).astype(np.uint8), 3, axis=2)


def spot_near(image: NDArray[np.uint8], pixel: NDArray[np.float64], reach: int = 9) -> NDArray[np.float64]:
    """Centroid of the brightness around `pixel`."""
    u0, v0 = np.round(pixel).astype(int)
    window = image[v0 - reach : v0 + reach + 1, u0 - reach : u0 + reach + 1, 0].astype(np.float64)
    assert window.max() > 100, "no spot there"
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.array([u0 + (window * u).sum() / window.sum(), v0 + (window * v).sum() / window.sum()])


POINTS = np.array([[0.1, -0.05, 5.0], [2.5, 1.2, 5.0], [-2.4, -1.3, 5.0], [2.0, -1.0, 4.0], [-1.0, 1.0, 6.0]])


@pytest.mark.parametrize("model", LENSES)
@pytest.mark.parametrize("rotation", [np.eye(3), TILT], ids=["unrotated", "rotated"])
def test_a_point_is_where_the_rectified_camera_projects_it(model: str, rotation: NDArray[np.float64]) -> None:
    camera = camera_with(model)
    target = CameraModel(600, 380, 380.0, 380.0, 300.0, 190.0)
    rectification = Rectification(camera, target, rotation)
    rectified = rectification.rectify(image_of_spots(pixels_seen(camera, POINTS)))
    for expected in rectification.camera.project(POINTS @ rotation.T):
        np.testing.assert_allclose(spot_near(rectified, expected), expected, atol=0.15)


def test_without_a_target_intrinsics_stay_and_distortion_goes() -> None:
    assert Rectification(camera_with("plumb_bob")).camera == PINHOLE


def test_depth_that_the_camera_did_not_see_is_nan() -> None:
    camera = camera_with("plumb_bob")
    wide = CameraModel(640, 400, 200.0, 200.0, 320.0, 200.0)  # looks past the image on every side
    rectification = Rectification(camera, wide)
    depth, confidence = np.ones((400, 640), np.float32), np.ones((400, 640), np.float32)
    rectification.mark_unseen(depth, confidence, rectification.camera)

    x, y = np.meshgrid(*(slopes.astype(np.float64) for slopes in wide.ray_slopes()))
    rays = np.stack((x, y, np.ones_like(x)), axis=-1).reshape(-1, 3)
    u, v = pixels_seen(camera, rays).T.reshape(2, 400, 640)
    seen = (u > -0.5) & (u < 639.5) & (v > -0.5) & (v < 399.5)
    near_axis = np.hypot(x, y) < 1.05  # beyond, this lens folds back, see the next test
    assert 0.1 < np.isnan(depth).mean() < 0.9
    np.testing.assert_array_equal(np.isfinite(depth)[near_axis], seen[near_axis])
    np.testing.assert_array_equal(confidence == 0, np.isnan(depth))


def test_what_the_lens_model_mirrors_in_from_outside_is_not_seen() -> None:
    # r (1 - 0.3 r^2) grows up to r = 1.054 and comes back to zero at r = 1.83: the image a second time.
    camera = replace(PINHOLE, fx=700.0, fy=700.0, distortion_model="plumb_bob", distortion=(-0.3, 0.0, 0.0, 0.0))
    wide = CameraModel(800, 400, 200.0, 200.0, 400.0, 200.0)
    depth, confidence = np.ones((400, 800), np.float32), np.ones((400, 800), np.float32)
    rectification = Rectification(camera, wide)
    rectification.mark_unseen(depth, confidence, wide)
    white = rectification.rectify(np.full((400, 640, 3), 255, np.uint8))
    assert np.isfinite(depth[200, 400])
    for column in range(400 + 220, 800):  # from slope 1.1 to 2, along the row of the optical axis
        assert np.isnan(depth[200, column])
        assert white[200, column, 0] == 0


def test_unseen_pixels_are_found_in_resized_crops_too() -> None:
    rectification = Rectification(camera_with("plumb_bob"), CameraModel(640, 400, 200.0, 200.0, 320.0, 200.0))
    whole = np.ones((400, 640), np.float32), np.ones((400, 640), np.float32)
    rectification.mark_unseen(*whole, rectification.camera)
    part = np.ones((100, 160), np.float32), np.ones((100, 160), np.float32)
    rectification.mark_unseen(*part, rectification.camera.cropped(0, 200, 320, 200).resized(160, 100))
    of_whole = np.isnan(whole[0])[200:, :320].reshape(100, 2, 160, 2)
    all_unseen, any_unseen = of_whole.all(axis=(1, 3)), of_whole.any(axis=(1, 3))
    assert 0 < all_unseen.sum() < all_unseen.size
    assert np.isnan(part[0])[all_unseen].all()
    assert np.isfinite(part[0])[~any_unseen].all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"distortion_model": "double_sphere"}, "double_sphere.*plumb_bob, rational_polynomial, equidistant"),
        ({"distortion_model": ""}, "distortion_model is ''"),
        ({"distortion_model": "equidistant", "distortion": (0.1, 0.2, 0.3)}, "3 coefficients, expected 4 for equidist"),
    ],
)
def test_a_lens_that_is_not_known_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Rectification(replace(camera_with("plumb_bob"), **change))


def test_a_rotation_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="expected a rotation"):
        Rectification(camera_with("plumb_bob"), rotation=np.eye(3) * 2)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(10, 10, 3\), expected \(400, 640, 3\)"):
        Rectification(camera_with("plumb_bob")).rectify(np.zeros((10, 10, 3), np.uint8))


def info_with(**changes: Any) -> Any:
    """A camera_info of a distorted camera, P with its own focal length."""
    fields: dict[str, Any] = {
        "width": 640,
        "height": 400,
        "distortion_model": "plumb_bob",
        "d": LENSES["plumb_bob"],
        "k": PINHOLE.K.ravel(),
        "r": np.eye(3).ravel(),
        "p": np.array([380.0, 0, 300, -50, 0, 385, 190, 0, 0, 0, 1, 0]),
        "binning_x": 0,
        "binning_y": 0,
        "roi": roi(0, 0, 0, 0),
    }
    return SimpleNamespace(**{**fields, **changes})


def roi(x_offset: int, y_offset: int, width: int, height: int) -> Any:
    return SimpleNamespace(x_offset=x_offset, y_offset=y_offset, width=width, height=height, do_rectify=False)


def test_camera_info_is_rectified_to_its_p() -> None:
    rectification = rectification_from_info(info_with(), 640, 400)
    assert rectification is not None
    assert rectification.camera == CameraModel(640, 400, 380.0, 385.0, 300.0, 190.0)


def test_camera_info_without_p_and_r_keeps_k() -> None:
    rectification = rectification_from_info(info_with(p=np.zeros(12), r=np.zeros(9)), 640, 400)
    assert rectification is not None
    assert rectification.camera == PINHOLE


@pytest.mark.parametrize("d", [(), (0.0,) * 5])
def test_a_camera_without_distortion_needs_no_rectification(d: tuple[float, ...]) -> None:
    assert rectification_from_info(info_with(d=d), 640, 400) is None


def test_a_region_of_interest_with_binning_rectifies_as_the_whole_image_does() -> None:
    """The delivered image is the region of the sensor image, averaged over bins (REP 104): a point stays a point."""
    info = info_with(roi=roi(100, 40, 480, 320), binning_x=2, binning_y=2, r=TILT.ravel())
    sensor = image_of_spots(pixels_seen(camera_with("plumb_bob"), POINTS))
    delivered = cv2.resize(sensor[40:360, 100:580], (240, 160), interpolation=cv2.INTER_AREA)
    rectification = rectification_from_info(info, 240, 160)
    assert rectification is not None
    rectified = rectification.rectify(delivered)  # type: ignore[arg-type]
    inside = rectification.camera.project(POINTS @ TILT.T)[[0, 4]]
    for expected in inside:
        np.testing.assert_allclose(spot_near(rectified, expected, reach=5), expected, atol=0.15)


def test_pixels_that_do_not_fill_a_bin_do_not_change_the_scale() -> None:
    camera = camera_from_info(info_with(binning_x=3, binning_y=3))
    assert (camera.width, camera.height) == (213, 133)
    assert (camera.fx, camera.fy) == pytest.approx((420 / 3, 410 / 3))
    assert camera.cx == pytest.approx((322 - 1) / 3)  # the first bin's centre is pixel 1 of the sensor


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"roi": roi(200, 0, 640, 400)}, r"roi is 640x400 at \(200, 0\), expected a part of the calibrated 640x400"),
        ({"roi": roi(10, 10, 0, 100)}, "roi is 0x100"),
        ({"binning_x": 1000}, "binning is 1000x1 for 640x400 pixels"),
    ],
)
def test_regions_and_bins_that_leave_no_image_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        camera_from_info(info_with(**change))

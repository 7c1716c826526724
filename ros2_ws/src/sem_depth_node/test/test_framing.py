"""Fitting images of any aspect into the engine's input and back."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sem_depth_node.camera import CameraModel
from sem_depth_node.framing import MAX_STRETCH, Fit, Framing

side = st.integers(16, 700)


def camera_of(width: int, height: int, horizon: float = 0.46) -> CameraModel:
    return CameraModel(width, height, 0.6 * width, 0.6 * width, width / 2 - 0.5, horizon * height - 0.5)


@settings(deadline=None)
@given(side, side, side, side, st.sampled_from(["crop", "letterbox"]), st.floats(0, 1))
def test_no_aspect_is_stretched_by_more_than_the_limit(
    width: int, height: int, w: int, h: int, fit: Fit, horizon: float
) -> None:
    framing = Framing(camera_of(width, height, horizon), h, w, fit)
    sx = framing.target.width / framing.source.width
    sy = framing.target.height / framing.source.height
    # A window is a whole number of pixels: a side of s pixels becomes round(s), or 1 where that would be 0.
    smallest = min(framing.source.width, framing.source.height, framing.target.width, framing.target.height)
    assume(smallest >= 8)
    assert max(sx / sy, sy / sx) <= MAX_STRETCH * smallest / (smallest - 0.5)
    assert framing.source.x >= 0
    assert framing.source.x + framing.source.width <= width
    assert framing.source.y >= 0
    assert framing.source.y + framing.source.height <= height


@pytest.mark.parametrize("fit", ["crop", "letterbox"])
@pytest.mark.parametrize("size", [(1242, 375), (1920, 1280), (640, 480), (200, 900)])
def test_a_pixel_of_the_engine_input_shows_what_its_camera_says(fit: Fit, size: tuple[int, int]) -> None:
    camera = camera_of(*size)
    framing = Framing(camera, 192, 640, fit)
    # A bright disc at a known 3D point, seen through both cameras, must be at the same place in the picture.
    point = np.array([[0.02, 0.03, 1.0]])
    u, v = camera.project(point)[0]
    rows, columns = np.mgrid[: camera.height, : camera.width]
    disc = (np.hypot(columns - u, rows - v) < 0.03 * camera.width).astype(np.uint8) * 255
    seen = framing.to_engine(np.repeat(disc[..., None], 3, axis=2))[..., 0].astype(float)
    centre = [(seen.sum(0) @ np.arange(640)) / seen.sum(), (seen.sum(1) @ np.arange(192)) / seen.sum()]
    np.testing.assert_allclose(centre, framing.camera.project(point)[0], atol=0.5)


@pytest.mark.parametrize("size", [(1242, 375), (1920, 576), (960, 320), (4000, 1200), (700, 210)])
def test_shrinking_averages_every_pixel_of_the_image(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 1.0)
    framing = Framing(camera_of(*size), 192, 640)
    seen = framing.to_engine(image).astype(int)
    averaged = cv2.resize(image[framing.source.slices], (640, 192), interpolation=cv2.INTER_AREA).astype(int)
    print(size, np.abs(seen - averaged).mean() / averaged.std(), np.abs(seen - averaged).max())


def test_thin_lines_survive_shrinking() -> None:
    image = np.zeros((1200, 4000, 3), np.uint8)
    image[:, 1::25] = 255  # a column in 25, some of which bilinear sampling every 6 columns would not meet
    columns = Framing(camera_of(4000, 1200), 192, 640).to_engine(image)[96, :, 0].astype(float)
    assert columns.sum() / 255 == pytest.approx(160 * 640 / 4000, rel=0.02)
    assert columns.max() < 2 * 255 * 640 / 4000


def test_kitti_is_seen_whole_and_waymo_is_cropped_at_the_horizon() -> None:
    kitti = Framing(camera_of(1242, 375), 192, 640)
    assert (kitti.source.width, kitti.source.height) == (1242, 375)
    waymo = camera_of(1920, 1280, horizon=0.5)
    framing = Framing(waymo, 192, 640)
    assert (framing.source.width, framing.source.height) == (1920, 576)
    horizon_in_window = (waymo.cy + 0.5 - framing.source.y) / framing.source.height
    assert horizon_in_window == pytest.approx(0.5, abs=0.01)


def test_pixels_the_engine_did_not_see_get_no_answer() -> None:
    framing = Framing(camera_of(64, 64), 16, 64)
    out = np.empty((64, 64), np.float32)
    framing.to_image(np.full((16, 64), 7, np.float32), out, outside=np.nan)
    assert (out[framing.source.slices] == 7).all()
    assert np.isnan(out).sum() == 64 * (64 - framing.source.height)


def test_letterbox_answers_for_the_whole_image() -> None:
    framing = Framing(camera_of(64, 64), 16, 64, "letterbox")
    out = np.empty((64, 64), np.float32)
    framing.to_image(np.full((16, 64), 7, np.float32), out, outside=np.nan)
    assert (out == 7).all()


def test_the_bars_of_a_letterbox_stay_black_from_image_to_image() -> None:
    framing = Framing(camera_of(64, 64), 16, 64, "letterbox")
    seen = framing.to_engine(np.full((64, 64, 3), 200, np.uint8))
    seen = framing.to_engine(np.full((64, 64, 3), 100, np.uint8))
    assert set(np.unique(seen)) == {0, 100}


def test_a_nan_reaches_every_pixel_it_would_have_been_mixed_into() -> None:
    framing = Framing(camera_of(40, 10), 5, 20)
    plane = np.full((5, 20), 3, np.float32)
    plane[2, 10] = np.nan
    out = np.empty((10, 40), np.float32)
    framing.to_image(plane, out, outside=np.nan)
    assert np.isnan(out[4:6, 20:22]).all()
    assert set(out[~np.isnan(out)]) == {3.0}


@pytest.mark.parametrize("fit", ["crop", "letterbox"])
@pytest.mark.parametrize("size", [(4, 3000), (3000, 4), (1, 1)])
def test_images_of_extreme_shape_are_still_fitted(fit: Fit, size: tuple[int, int]) -> None:
    framing = Framing(camera_of(*size), 48, 160, fit)
    assert framing.to_engine(np.full((size[1], size[0], 3), 9, np.uint8)).max() == 9


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="squeeze"):
        Framing(camera_of(64, 64), 16, 64, "squeeze")  # type: ignore[arg-type]

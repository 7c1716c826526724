"""The camera model: what resizing and cropping do to where a point is seen."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sem_depth_node.camera import CameraModel

sizes = st.integers(2, 4000)
focals = st.floats(10, 5000)


@st.composite
def cameras(draw: st.DrawFn) -> CameraModel:
    width, height = draw(sizes), draw(sizes)
    centre = st.floats(-0.5, 1.5)
    return CameraModel(width, height, draw(focals), draw(focals), draw(centre) * width, draw(centre) * height)


POINTS = np.array([[0.0, 0.0, 5.0], [1.0, -2.0, 10.0], [-3.0, 1.5, 40.0]])


@given(cameras(), sizes, sizes)
def test_a_resized_camera_sees_a_point_at_the_same_share_of_the_image(camera: CameraModel, w: int, h: int) -> None:
    share = (camera.project(POINTS) + 0.5) / (camera.width, camera.height)
    share_resized = (camera.resized(w, h).project(POINTS) + 0.5) / (w, h)
    np.testing.assert_allclose(share_resized, share, rtol=1e-9, atol=1e-9)


@given(cameras(), st.integers(-50, 50), st.integers(-50, 50))
def test_a_cropped_camera_sees_a_point_moved_by_the_corner(camera: CameraModel, x: int, y: int) -> None:
    moved = camera.cropped(x, y, 10, 10).project(POINTS)
    np.testing.assert_allclose(moved, camera.project(POINTS) - (x, y), rtol=1e-9, atol=1e-6)


@given(cameras())
def test_ray_slopes_invert_projection(camera: CameraModel) -> None:
    x, y = camera.ray_slopes()
    corner = np.array([[x[-1] * 7.0, y[-1] * 7.0, 7.0]])
    expected = [[camera.width - 1, camera.height - 1]]
    np.testing.assert_allclose(camera.project(corner), expected, rtol=1e-4, atol=1e-2)


def test_points_behind_the_camera_have_no_pixel() -> None:
    camera = CameraModel(10, 10, 5, 5, 5, 5)
    assert np.isnan(camera.project(np.array([[0.0, 0.0, -1.0], [1.0, 1.0, 0.0]]))).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"fx": 0.0}, "fx=0.0"), ({"width": 0}, "0x10"), ({"cx": float("nan")}, "not finite"), ({"fy": -1.0}, "fy=-1.0")],
)
def test_impossible_intrinsics_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"width": 10, "height": 10, "fx": 5.0, "fy": 5.0, "cx": 5.0, "cy": 5.0}
    with pytest.raises(ValueError, match=words):
        CameraModel(**{**good, **change})

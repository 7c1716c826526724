"""camera_info as the camera of an image: what is read, scaled, repeated, refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sem_depth_node.bad_input import BadInput
from sem_depth_node.calibration import CalibrationReader
from sem_depth_node.camera_info import camera_from_info, camera_of_image


def info(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "width": 640,
        "height": 480,
        "distortion_model": "plumb_bob",
        "d": [0.0] * 5,
        "k": np.array([500.0, 0, 320, 0, 510, 240, 0, 0, 1]),
        "r": np.eye(3).ravel(),
        "p": np.array([450.0, 0, 310, -40, 0, 455, 230, 0, 0, 0, 1, 0]),
        "binning_x": 0,
        "binning_y": 0,
        "roi": SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
    }
    return SimpleNamespace(**{**fields, **changes})


def test_k_counts_and_p_where_the_image_is_rectified() -> None:
    camera = camera_from_info(info())
    assert (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy) == (640, 480, 500, 510, 320, 240)
    assert (camera.distortion_model, camera.distortion) == ("", ())
    camera = camera_from_info(info(d=[0.1, 0, 0, 0, 0]), rectified=True)
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.distortion) == (450, 455, 310, 230, ())


def test_distortion_is_kept() -> None:
    camera = camera_from_info(info(d=[0.1, 0, 0, 0, 0.2]))
    assert (camera.distortion_model, camera.distortion) == ("plumb_bob", (0.1, 0, 0, 0, 0.2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": np.zeros(9)}, "K holds fx=0, fy=0.*P is filled"),
        ({"k": np.zeros(9), "p": np.zeros(12)}, "is the camera calibrated"),
        ({"k": np.array([-1.0, 0, 0, 0, 1, 0, 0, 0, 1])}, "fx=-1"),
        ({"k": np.array([np.inf, 0, 0, 0, 1, 0, 0, 0, 1])}, "fx=inf"),
        ({"width": 0}, "is 0x480"),
        ({"d": [np.nan, 0, 0, 0, 0]}, "D holds"),
    ],
)
def test_what_is_no_calibration_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as problem:
        camera_from_info(info(**changes))
    assert problem.value.fault == "camera_info_invalid"


def test_another_size_is_scaled_while_the_aspect_fits() -> None:
    camera = camera_from_info(info())
    assert camera_of_image(camera, 640, 480) is camera
    half = camera_of_image(camera, 320, 240)
    assert (half.fx, half.fy, half.cx, half.cy) == pytest.approx((250, 255, 159.75, 119.75))
    assert camera_of_image(camera, 640, 476).height == 476, "0.8 % off"
    for width, height in ((640, 470), (480, 640), (640, 360)):
        with pytest.raises(BadInput, match=f"is for 640x480, the image has {width}x{height}") as problem:
            camera_of_image(camera, width, height)
        assert problem.value.fault == "camera_info_size"


def test_a_repeated_calibration_is_read_once_and_a_changed_one_again() -> None:
    reader = CalibrationReader("here")
    distorted = info(d=[0.1, 0, 0, 0, 0])
    first = reader.read(distorted, 640, 480)
    assert first.rectification is not None
    assert reader.read(info(d=[0.1, 0, 0, 0, 0]), 640, 480) is first
    assert reader.read(info(d=[0.2, 0, 0, 0, 0]), 640, 480) is not first
    assert reader.read(distorted, 320, 240).camera.width == 320


@pytest.mark.parametrize(
    ("mode", "d", "fx", "rectifies", "from_projection"),
    [
        ("here", 0.0, 500, False, False),
        ("here", 0.1, 450, True, True),
        ("upstream", 0.1, 450, False, True),
        ("none", 0.1, 500, False, False),
    ],
)
def test_who_rectifies(mode: Any, d: float, fx: float, rectifies: bool, from_projection: bool) -> None:
    calibration = CalibrationReader(mode).read(info(d=[d, 0, 0, 0, 0]), 640, 480)
    assert calibration.camera.fx == fx
    assert (calibration.rectification is not None) == rectifies
    assert calibration.from_projection == from_projection
    image = np.zeros((480, 640, 3), np.uint8)
    assert (calibration.rectify(image) is image) != rectifies


def test_a_bad_calibration_does_not_hide_the_good_one_before() -> None:
    reader = CalibrationReader("here")
    good = reader.read(info(), 640, 480)
    with pytest.raises(BadInput):
        reader.read(info(k=np.zeros(9)), 640, 480)
    assert reader.read(info(), 640, 480) is good

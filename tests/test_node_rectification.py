"""Images of a distorted camera in, depth of the rectified one out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from encoded_images import encode
from numpy.typing import NDArray
from running_node import Bench, RunningNode, bench, free_domain
from scenes import FRAME, HEIGHT, LEFT, RIGHT, SECOND, WIDTH, image_message, info_message, plane
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from tiny_bundle import CANONICAL_FOCAL_LENGTH, canonical_depth

from sem_depth_node.bundle import ModelBundle

STAMP = 1_600_000_000 * SECOND
K = np.array([[300.0, 0, 190], [0, 310, 60], [0, 0, 1]])
P = np.array([[200.0, 0, 180, -9], [0, 205, 66, 0], [0, 0, 1, 0]])  # looks past the image at both sides
LENSES = {
    "plumb_bob": (-0.3, 0.1, 0.001, -0.002, -0.02),
    "rational_polynomial": (0.2, -0.1, 0.001, 0.0, 0.01, 0.5, -0.1, 0.0),
    "equidistant": (0.02, -0.01, 0.002, -0.001),
}
BAND = 0.25  # of X/Z


@pytest.fixture(scope="module")
def robot(tiny_bundle: ModelBundle) -> Iterator[Bench]:
    domain = free_domain()
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime"}
    with RunningNode(domain, parameters) as node, bench(domain) as opened:
        node.said("active", "/image", "/camera_info")
        opened.camera()
        opened.listen_to_all()
        yield opened


def is_left(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a ray of this X/Z shows the colour LEFT: the world has upright bands."""
    return np.asarray(np.floor(x / BAND) % 2 == 0)


def rays_of(model: str, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """X/Z and Y/Z (N, 2) of pixels of the distorted image."""
    distortion = np.array(LENSES[model])
    if model == "equidistant":
        return np.asarray(cv2.fisheye.undistortPoints(pixels[:, None], K, distortion)[:, 0])
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 200, 1e-9)
    return np.asarray(cv2.undistortPointsIter(pixels[:, None], K, distortion, None, None, criteria)[:, 0])


def seen_by(model: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the distorted image shows rays, by projecting them."""
    rays = np.stack((x, y, np.ones_like(x)), axis=-1).reshape(-1, 1, 3)
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    arguments = (rays, np.zeros(3), np.zeros(3), K, np.array(LENSES[model]))
    u, v = project(*arguments)[0].reshape(*x.shape, 2).transpose(2, 0, 1)
    return np.asarray((u >= -0.5) & (u <= WIDTH - 0.5) & (v >= -0.5) & (v <= HEIGHT - 0.5))


def view(model: str) -> NDArray[np.uint8]:
    """What the distorted camera sees."""
    pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1).reshape(-1, 2).astype(np.float64)
    left = is_left(rays_of(model, pixels)[:, 0]).reshape(HEIGHT, WIDTH, 1)
    return np.where(left, np.array(LEFT, np.uint8), np.array(RIGHT, np.uint8))


def info_of(model: str, stamp: int, **changes: Any) -> CameraInfo:
    """Its camera_info."""
    info = info_message(stamp)
    info.distortion_model, info.d = model, list(LENSES.get(model, LENSES["plumb_bob"]))
    info.k, info.p = K.ravel(), P.ravel()
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def expect_bands(depth: NDArray[np.float32], camera: CameraInfo, model: str) -> None:
    """Each pixel of the rectified depth image has the depth of its ray's band, and NaN where nothing was seen."""
    k = np.reshape(camera.k, (3, 3))
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    x, y = (u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1]
    seen = seen_by(model, x, y)
    assert np.isnan(depth[~seen]).all()
    # Away from where bands meet each other, or the black that was not seen.
    margin = np.ones((17, 17), np.uint8)
    alone = [cv2.erode((seen & band).astype(np.uint8), margin) > 0 for band in (is_left(x), ~is_left(x))]
    focal_length = math.sqrt(k[0, 0] * k[1, 1]) * 192 / camera.width
    for pixels, colour in zip(alone, (LEFT, RIGHT), strict=True):
        assert pixels.sum() > 1000
        expected = canonical_depth(colour[0]) * focal_length / CANONICAL_FOCAL_LENGTH
        assert depth[pixels] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model", LENSES)
def test_depth_is_that_of_the_rectified_camera(robot: Bench, model: str) -> None:
    stamp = STAMP + list(LENSES).index(model) * SECOND
    robot.show(image_message(stamp, encode(view(model), "rgb8")), info_of(model, stamp))
    camera, image = robot.output("depth/camera_info", stamp), robot.output("depth/image", stamp)
    assert camera.header.frame_id == FRAME
    assert (camera.width, camera.height) == (image.width, image.height) == (WIDTH, HEIGHT)
    assert (camera.distortion_model, list(camera.d)) == ("plumb_bob", [0.0] * 5)
    assert camera.k == pytest.approx(P[:, :3].ravel())
    assert camera.r == pytest.approx(np.eye(3).ravel())
    assert camera.p == pytest.approx(np.column_stack((P[:, :3], np.zeros(3))).ravel())
    depth = plane(image)
    assert 0.1 < np.isnan(depth).mean() < 0.6
    expect_bands(depth, camera, model)

    points = np.frombuffer(robot.output("depth/points", stamp).data, "<f4").reshape(HEIGHT, WIDTH, 4)
    assert (np.isnan(points[..., 2]) == np.isnan(depth)).all()
    confidence = plane(robot.output("depth/confidence", stamp))
    assert (confidence[np.isnan(depth)] == 0).all()


def test_a_binned_region_of_the_sensor_is_rectified_as_such(robot: Bench) -> None:
    """REP 104: K, P and roi are in pixels of the whole sensor before binning, the image is the region after it."""
    stamp = STAMP + 10 * SECOND
    sensor = cv2.resize(view("plumb_bob"), (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_NEAREST)
    # The calibration of a sensor of twice the size, of which the region leaves 40 columns and 8 rows at each side.
    double = np.array([[2.0, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    info = info_of(
        "plumb_bob",
        stamp,
        width=2 * WIDTH,
        height=2 * HEIGHT,
        k=(double @ K).ravel(),
        p=(double @ P).ravel(),
        roi=RegionOfInterest(x_offset=40, y_offset=8, width=2 * WIDTH - 80, height=2 * HEIGHT - 16),
        binning_x=2,
        binning_y=2,
    )
    region = cv2.resize(sensor[8:-8, 40:-40], (WIDTH - 40, HEIGHT - 8), interpolation=cv2.INTER_AREA)
    robot.show(image_message(stamp, encode(np.asarray(region, np.uint8), "rgb8")), info)
    camera, depth = robot.output("depth/camera_info", stamp), plane(robot.output("depth/image", stamp))
    assert depth.shape == (HEIGHT - 8, WIDTH - 40)
    assert (camera.roi.width, camera.binning_x) == (0, 0)
    # 20 columns and 4 rows of the binned sensor are cut off at the left and above.
    assert camera.k == pytest.approx([200, 0, 180 - 20, 0, 205, 66 - 4, 0, 0, 1])
    known = np.isfinite(depth)
    u, _ = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    left = is_left((u - 160) / 200)
    near, far = sorted(canonical_depth(colour[0]) for colour in (LEFT, RIGHT))
    agrees = (depth[known] > math.sqrt(near * far) * depth[known].max() / far) == (left[known] == (LEFT[0] > RIGHT[0]))
    assert agrees.mean() > 0.97


def test_rectification_can_be_left_off(robot: Bench) -> None:
    stamp = STAMP + 20 * SECOND
    assert robot.set(rectification="none").successful
    robot.show(image_message(stamp, encode(view("plumb_bob"), "rgb8")), info_of("plumb_bob", stamp))
    camera = robot.output("depth/camera_info", stamp)
    assert camera.k == pytest.approx(K.ravel())
    assert list(camera.d) == list(LENSES["plumb_bob"])
    assert robot.set(rectification="here").successful


def test_an_unknown_lens_is_named_and_does_not_end_the_node(robot: Bench) -> None:
    stamp = STAMP + 30 * SECOND
    robot.show(image_message(stamp, encode(view("plumb_bob"), "rgb8")), info_of("double_sphere", stamp))
    _, values = robot.diagnosis("frames", lambda _, values: "last unknown_distortion_model" in values)
    assert "distortion_model is 'double_sphere', expected one of plumb_bob" in values["last unknown_distortion_model"]
    robot.show(image_message(stamp + 1, encode(view("plumb_bob"), "rgb8")), info_of("plumb_bob", stamp + 1))
    assert robot.output("depth/image", stamp + 1)

"""Augmentation keeps intrinsics true: known points stay where the camera projects them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sem_depth_node.camera import CameraModel
from sem_depth_training.data.augmentation import (
    AugmentationConfig,
    Crop,
    DepthPoints,
    Sample,
    apply_crop,
    blur,
    borrow_style,
    join_side_by_side,
    mix_by_depth,
    random_crop,
    turn,
    vary_appearance,
    vary_weather,
)

CAMERA = CameraModel(1242, 375, 721.5377, 721.5377, 609.5593, 172.854)


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([(192, 640), (320, 480), (128, 416), (192, 288)]))
@settings(max_examples=40, deadline=None)
def test_points_stay_where_the_augmented_camera_projects_them(seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    u, v = rng.integers(0, CAMERA.width), rng.integers(0, CAMERA.height)
    depth = np.zeros((CAMERA.height, CAMERA.width), np.float32)
    depth[v, u] = z = np.float32(rng.uniform(2, 80))
    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    crop = random_crop(rng, CAMERA, *size, AugmentationConfig())

    sample = apply_crop(image, DepthPoints.from_image(depth), None, CAMERA, crop, *size)

    assert (sample.camera.height, sample.camera.width) == sample.depth.shape == size
    point = [(u - CAMERA.cx) / CAMERA.fx * z, (v - CAMERA.cy) / CAMERA.fy * z, z]
    if crop.flip:
        point[0] = -point[0]
    expected = sample.camera.project(np.array([point]))[0]
    found = np.argwhere(sample.depth > 0)
    if len(found) == 0:  # cut away: it must project outside the image
        outside = (expected < -0.5) | (expected > np.array([size[1], size[0]]) - 0.5)
        assert outside.any()
    else:
        assert len(found) == 1
        assert sample.depth[tuple(found[0])] == z
        assert np.abs(found[0][::-1] - expected).max() <= 0.5 + 1e-3


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_image_and_sky_move_with_the_depth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (CAMERA.height, CAMERA.width)
    image, sky, depth = np.zeros((*shape, 3), np.uint8), np.zeros(shape, bool), np.zeros(shape, np.float32)
    left, top = rng.integers(300, 900), rng.integers(100, 250)
    block = (slice(top, top + 60), slice(left, left + 60))
    image[block], sky[block], depth[block] = 255, True, 10.0
    crop = random_crop(rng, CAMERA, 192, 640, AugmentationConfig(zoom=1.2))

    sample = apply_crop(image, DepthPoints.from_image(depth), sky, CAMERA, crop, 192, 640)

    assert sample.depth.any(), "the block is big enough to stay in view"
    for shown in (sample.image[..., 0] > 127, sample.sky):
        overlap = (shown & (sample.depth > 0)).sum() / (shown | (sample.depth > 0)).sum()
        assert overlap > 0.85


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_dense_depth_stays_where_the_augmented_camera_projects_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    u = np.arange(CAMERA.width, dtype=np.float32)
    # A plane that slants away to the right, so that each column's depth names the column.
    depth = np.repeat(np.round((5 + u / 20) * 256).astype(np.uint16)[None], CAMERA.height, axis=0)
    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    crop = random_crop(rng, CAMERA, 192, 640, AugmentationConfig())

    sample = apply_crop(image, depth, None, CAMERA, crop, 192, 640)

    columns = (sample.depth[0] - 5) * 20
    slope = (columns - CAMERA.cx) / CAMERA.fx * (-1 if crop.flip else 1)
    projected = slope * sample.camera.fx + sample.camera.cx
    assert np.abs(projected - np.arange(640)).max() <= 0.5 * sample.camera.fx / CAMERA.fx + 0.1


def _rotation(roll: float, pitch: float) -> NDArray[np.float64]:
    """Roll about z (forward), then pitch about x (right), in the optical frame."""
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return about_x @ about_z


ANGLES = st.floats(-0.1, 0.1)


@given(roll=ANGLES, pitch=ANGLES, u=st.integers(0, 1241), v=st.integers(0, 374), z=st.floats(2, 80))
@settings(max_examples=60, deadline=None)
def test_a_measured_point_is_where_a_turned_camera_sees_it(roll: float, pitch: float, u: int, v: int, z: float) -> None:
    point = _rotation(roll, pitch) @ np.array([(u - CAMERA.cx) / CAMERA.fx * z, (v - CAMERA.cy) / CAMERA.fy * z, z])
    points = DepthPoints(np.array([u], np.int16), np.array([v], np.int16), np.array([z], np.float32))
    shape = (CAMERA.height, CAMERA.width)

    _, turned, _ = turn(np.zeros((*shape, 3), np.uint8), points, np.zeros(shape, bool), CAMERA, roll, pitch)

    assert isinstance(turned, DepthPoints)
    expected = CAMERA.project(point[None])[0]
    if len(turned.z):
        assert turned.z[0] == pytest.approx(point[2], rel=1e-5)
        assert np.abs(np.array([turned.u[0], turned.v[0]]) - expected).max() <= 0.5 + 1e-3
    else:
        assert ((expected < -0.5 + 1e-3) | (expected > np.array([CAMERA.width, CAMERA.height]) - 0.5 - 1e-3)).any()


def test_level_ground_tilts_when_the_camera_turns() -> None:
    height, roll, pitch = 1.65, np.radians(3.0), np.radians(-2.0)
    v, u = np.indices((CAMERA.height, CAMERA.width))
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)], axis=-1)

    def ground(normal: NDArray[np.float64]) -> NDArray[np.float32]:
        metres = height / np.maximum(rays @ normal, 1e-6)
        return np.where(metres < 60, metres, 0).astype(np.float32)

    down = np.array([0.0, 1.0, 0.0])
    level = (ground(down) * 256).round().astype(np.uint16)
    seen = np.repeat((level > 0)[:, :, None], 3, axis=2).astype(np.uint8) * 200

    image, depth, sky = turn(seen, level, level == 0, CAMERA, roll, pitch)

    expected = ground(_rotation(roll, pitch) @ down)
    assert isinstance(depth, np.ndarray)
    both = (depth > 0) & (expected > 0)
    assert both.sum() > 0.95 * (expected[:300] > 0).sum(), "but for what comes into view"
    error = np.abs(depth[both] / 256 / expected[both] - 1)
    assert np.median(error) < 0.005
    assert np.quantile(error[expected[both] < 20], 0.999) < 0.02
    assert ((image[..., 0] > 100) == (expected > 0))[:300].mean() > 0.99
    assert (sky == (expected == 0))[60:300].mean() > 0.99


def test_a_borrowed_style_brings_colours_and_leaves_edges_where_they_are() -> None:
    rng = np.random.default_rng(0)
    image = np.full((96, 160, 3), (60, 90, 120), np.uint8)
    for _ in range(60):
        x, y = rng.integers(0, 150), rng.integers(0, 90)
        image[y : y + 6, x : x + 10] = rng.integers(30, 150, 3)
    other = np.full((50, 70, 3), (170, 110, 70), np.uint8)

    styled = borrow_style(np.random.default_rng(1), image, other)

    assert np.abs(styled.mean((0, 1)) - (170, 110, 70)).max() < 3
    for channel in range(3):
        before, after = (np.diff(picture[:, :, channel].astype(float)).ravel() for picture in (image, styled))
        assert np.corrcoef(before, after)[0, 1] > 0.95
    assert (borrow_style(rng, image, image).astype(int) - image).max() <= 1, "its own style changes nothing"


def _street() -> Sample:
    """Dark ground from 5 to 50 m with a gap in its depth, under a blue sky."""
    height, width = 96, 160
    image, sky = np.full((height, width, 3), 70, np.uint8), np.zeros((height, width), bool)
    image[:40], sky[:40] = (90, 150, 240), True
    depth = np.zeros((height, width), np.float32)
    depth[40:] = np.linspace(50, 5, 56)[:, None]
    depth[60:64, 50:60] = 0
    return Sample(image, depth, sky, CAMERA)


def test_fog_hides_what_is_far_and_the_sky_and_leaves_what_is_near() -> None:
    sample, config = _street(), AugmentationConfig(fog=1)
    for seed in range(20):
        foggy = vary_weather(np.random.default_rng(seed), sample, True, config).astype(int)
        near, far = (np.abs(foggy[row].mean(0) - 70).mean() for row in (94, 41))
        assert far > 2 * near
        assert foggy[:35].std((0, 1)).max() < 2, "the sky becomes one with the fog"
        ground = foggy[55:70, :, 0].astype(float)
        assert np.abs(ground[:, 45:65] - ground[:, 100:120]).max() < 8, "a gap in depth leaves no hole in the fog"


def test_fog_needs_dense_depth() -> None:
    sample = _street()
    assert (vary_weather(np.random.default_rng(0), sample, False, AugmentationConfig(fog=1)) == sample.image).all()


def test_night_is_dark_and_rain_leaves_bright_streaks() -> None:
    sample = _street()
    night = vary_weather(np.random.default_rng(1), sample, True, AugmentationConfig(night=1))
    assert night.mean() < 0.75 * sample.image.mean()
    rain = vary_weather(np.random.default_rng(1), sample, True, AugmentationConfig(rain=1))
    ground = rain[50:].astype(int).max(2)
    assert 0.005 < (ground > np.median(ground) + 8).mean() < 0.5


def test_the_nearer_of_two_points_on_one_pixel_stays() -> None:
    points = DepthPoints(np.array([100, 101], np.int16), np.array([50, 50], np.int16), np.array([30, 5], np.float32))
    crop = Crop(58, 0, 1125, 375)
    sample = apply_crop(np.zeros((375, 1242, 3), np.uint8), points, None, CAMERA, crop, 32, 96)
    assert sample.depth[sample.depth > 0].tolist() == [5.0]


def test_frames_side_by_side_keep_their_canonical_depth() -> None:
    def flat(value: int, depth: float, focal: float) -> Sample:
        camera = CameraModel(100, 20, focal, focal, 50, 10)
        image, sky = np.full((20, 100, 3), value, np.uint8), np.full((20, 100), value > 50)
        return Sample(image, np.full((20, 100), depth, np.float32), sky, camera)

    left, right = flat(10, 8.0, 120.0), flat(90, 30.0, 60.0)
    joined = join_side_by_side(np.random.default_rng(0), left, right)
    from_right = joined.image[:, :, 0] == 90
    assert joined.camera == left.camera
    assert 0.2 <= from_right.mean() <= 0.8
    assert (from_right[:, :-1] <= from_right[:, 1:]).all(), "one cut from top to bottom"
    assert (joined.sky == from_right).all()
    canonical = joined.depth / joined.camera.focal_length
    assert canonical[~from_right] == pytest.approx(8.0 / 120.0)
    assert canonical[from_right] == pytest.approx(30.0 / 60.0)


def test_scenes_mixed_by_depth_hide_what_is_behind_and_keep_each_pixels_own_depth() -> None:
    def unmeasured(value: int, focal: float) -> Sample:
        camera = CameraModel(120, 60, focal, focal, 60, 30)
        nothing = np.zeros((60, 120))
        return Sample(np.full((60, 120, 3), value, np.uint8), nothing.astype(np.float32), nothing > 0, camera)

    # A wall 20 m away below sky, a post at 5 m before it; and, under half the focal length, a van at 4 m (8 m there)
    # before trees at 50 m (100 m there). Of either every third row and column is measured.
    first, second = unmeasured(10, 120.0), unmeasured(90, 60.0)
    first.depth[21::3, ::3], first.sky[:9] = 20, True  # the wall's upper edge is at row 9, measured only from 21 on
    first.depth[30::3, 21:30:3] = 5
    second.depth[::3, ::3] = 50
    second.depth[24::3, 15:60:3] = 4
    mixed = mix_by_depth(first, second)

    of_second = mixed.image[:, :, 0] == 90
    assert mixed.camera == first.camera
    assert of_second[:7].all(), "trees are before the sky"
    assert not mixed.sky[:7].any()
    assert not of_second[17:, 70:].any(), "the wall hides the trees, above what is measured of it too"
    assert of_second[30:56, 34:54].all(), "the van is before the wall"
    assert not of_second[34:56, 22:26].any(), "the post is before the van"
    assert set(np.unique(mixed.depth[of_second])) == {0, 8, 100}
    assert set(np.unique(mixed.depth[~of_second])) == {0, 5, 20}


def test_a_scene_a_little_nearer_is_the_same_road() -> None:
    camera = CameraModel(60, 40, 50, 50, 30, 20)
    nothing = np.zeros((40, 60), bool)
    road = np.full((40, 60), 10, np.float32)
    first, second = (
        Sample(np.full((40, 60, 3), value, np.uint8), road * factor, nothing, camera)
        for value, factor in ((10, 1.0), (90, 0.95))
    )
    assert (mix_by_depth(first, second).image == 10).all()
    unknown = replace(second, depth=np.zeros_like(road))
    assert (mix_by_depth(first, unknown).image == 10).all(), "what nobody measured stays behind"


def test_blur_spreads_a_point_but_keeps_it_in_place_and_its_light() -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    rows, columns = np.mgrid[:41, :41]
    elongations = []
    for seed in range(40):
        light = blur(np.random.default_rng(seed), image)[..., 0].astype(float)
        assert light.sum() == pytest.approx(255, rel=0.25)  # each pixel is rounded
        centre = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
        assert centre == pytest.approx((20, 20), abs=0.5)
        lit = light > 0
        extent = sorted(np.linalg.eigvalsh(np.cov(columns[lit], rows[lit]) if lit.sum() > 1 else np.eye(2)))
        elongations.append(extent[1] / max(extent[0], 0.05))
    assert sum(value > 4 for value in elongations) >= 5, "some are moved along a line"
    assert sum(value < 1.5 for value in elongations) >= 10, "others are out of focus"


def test_appearance_changes_colours_but_neither_size_nor_type() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    varied = vary_appearance(rng, image, AugmentationConfig(blur=1, noise=1, jpeg=1))
    assert varied.shape == image.shape
    assert varied.dtype == np.uint8
    assert not np.array_equal(varied, image)


def test_unknown_augmentation_setting_is_named() -> None:
    with pytest.raises(ValueError, match="zoon"):
        AugmentationConfig.model_validate({"zoon": 2})

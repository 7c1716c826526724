"""Depth and colour to points."""

import numpy as np

from sem_depth_node.camera import CameraModel
from sem_depth_node.pointcloud import PointCloudBuilder

CAMERA = CameraModel(31, 17, 20.0, 22.0, 14.3, 8.9)


def test_points_project_back_to_their_pixels_at_their_depth() -> None:
    random = np.random.default_rng(0)
    depth = random.uniform(1, 80, (17, 31)).astype(np.float32)
    cloud = PointCloudBuilder(CAMERA).build(depth, np.zeros((17, 31, 3), np.uint8))
    pixels = CAMERA.project(cloud[..., :3].reshape(-1, 3))
    rows, columns = np.mgrid[:17, :31]
    np.testing.assert_allclose(pixels, np.stack((columns.ravel(), rows.ravel()), 1), atol=1e-4)
    np.testing.assert_array_equal(cloud[..., 2], depth)


def test_every_colour_survives_packing() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (17, 31, 3), dtype=np.uint8)
    rgb[0, 0] = (0x80, 0x7F, 0xFF)  # would be a NaN's bits with an alpha of 255
    cloud = PointCloudBuilder(CAMERA).build(np.full((17, 31), 2.0, np.float32), rgb)
    packed = np.ascontiguousarray(cloud[..., 3]).view(np.uint32)
    r, g, b = (rgb[..., c].astype(np.uint32) for c in range(3))
    np.testing.assert_array_equal(packed, (r << 16) | (g << 8) | b)


def test_no_answer_and_too_far_have_no_point() -> None:
    depth = np.full((17, 31), 5.0, np.float32)
    depth[3, 4], depth[5, 6] = np.nan, np.inf
    cloud = PointCloudBuilder(CAMERA).build(depth, np.full((17, 31, 3), 9, np.uint8))
    assert np.isnan(cloud[[3, 5], [4, 6], :3]).all()
    assert np.isfinite(cloud[..., :3]).sum() == 3 * (17 * 31 - 2)


def test_a_second_cloud_forgets_the_first() -> None:
    builder = PointCloudBuilder(CAMERA)
    rgb = np.zeros((17, 31, 3), np.uint8)
    builder.build(np.full((17, 31), np.nan, np.float32), rgb)
    again = builder.build(np.full((17, 31), 3.0, np.float32), rgb)
    assert (again[..., 2] == 3).all()

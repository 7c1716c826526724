"""Cycles' depth and LiDAR against geometry with a closed form; needs Blender (see docs/streets.md)."""

import numpy as np
import pytest

from sem_depth_training.streets.geometry import Geometry, Material
from sem_depth_training.streets.layout import StreetLayout, make_layout
from sem_depth_training.streets.lidar import HDL_64E, RingBlock
from sem_depth_training.streets.road import CrossSection, Road
from sem_depth_training.streets.street import build_geometry
from sem_depth_training.streets.views import View, optical_pose
from sem_depth_training.streets.weather import Weather

pytest.importorskip("bpy", reason="rendering needs Blender's bpy, an optional extra (docs/streets.md)")

CAMERA_HEIGHT, WALL = 1.65, 24.0
NOON = Weather("sun", np.radians(50), 1.0, 0.0, 20000.0)


def empty_street():
    return StreetLayout(0, "country", Road(-40.0, 60.0, 0.0, 0.0), CrossSection(2, 3.0, 0.0, 0.0, 0.0, 0.0), 0)


def camera(width=160, height=96, focal=120.0, cx=76.3, cy=41.7):
    return View(width, height, focal, cx, cy, optical_pose((0.0, 0.0, CAMERA_HEIGHT), 0.0))


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    from sem_depth_training.streets.cycles import CyclesStreet

    folder = tmp_path_factory.mktemp("blender")
    return CyclesStreet(folder, folder / "textures", folder, samples=2, threads=1)


@pytest.fixture
def plane_and_wall(street):
    """A floor at height 0 and a wall across at x = WALL, y from -4 to 3, up to z = 5."""
    geometry = Geometry()
    grey = Material("grey", (0.5, 0.5, 0.5))
    geometry.quads(grey, np.array([[-50, -50, 0], [900, -50, 0], [900, 50, 0], [-50, 50, 0]], float))
    geometry.quads(grey, np.array([[WALL, 3, 0], [WALL, -4, 0], [WALL, -4, 5], [WALL, 3, 5]], float))
    street.load(empty_street(), geometry, NOON)
    return street


def test_depth_is_exact_at_pixel_centres(plane_and_wall):
    view = camera()
    depth = plane_and_wall.depth(view)
    assert np.isinf(depth[0]).all()  # the sky
    x, y = view.rays()[..., 0].astype(np.float64), view.rays()[..., 1].astype(np.float64)
    with np.errstate(divide="ignore"):
        floor = np.where(y > 0, CAMERA_HEIGHT / y, np.inf)
    on_wall = (x * WALL > -3) & (x * WALL < 4) & (y * WALL < CAMERA_HEIGHT) & (y * WALL > CAMERA_HEIGHT - 5)
    expected = np.where(on_wall, WALL, floor)
    expected[np.abs(x * expected) > 50] = np.inf
    # At silhouettes and near the horizon a ray 1/200 of a pixel off meets something else.
    interior = np.ones_like(on_wall)
    edges = np.isfinite(expected) & (expected < 300)
    for axis in (0, 1):
        for step in (-1, 1):
            interior &= np.isclose(np.roll(expected, step, axis), expected, rtol=0.2)
    checked = interior & edges
    assert checked.sum() > 5000
    # A ray is anywhere within 1/200 of a pixel of the centre, which on the floor is a relative depth of 1/200 of a row.
    row = 0.005 / view.focal / np.maximum(y, 1e-3)
    error = np.abs(depth[checked] / expected[checked] - 1)
    assert (error <= np.where(on_wall, 1e-5, row + 1e-5)[checked]).all()


def test_lidar_rings_and_points(plane_and_wall):
    plane_and_wall.depth(camera())  # whose principal point is off the middle: the scan must not follow it
    pose = np.eye(4)
    pose[:3, 3] = (0.0, 0.0, 1.73)
    side = np.radians(40)
    for block in HDL_64E:
        top, bottom = np.radians(block.top), np.radians(block.bottom)
        returns = plane_and_wall.lidar(pose, block, side, 81)
        points = returns.points.astype(np.float64)
        on_floor, on_wall = np.abs(points[:, 2]) < 1e-3, np.abs(points[:, 0] - WALL) < 1e-3
        assert (on_floor | on_wall).all()
        relative = points - pose[:3, 3]
        elevation = np.arctan2(relative[:, 2], np.hypot(relative[:, 0], relative[:, 1]))
        azimuth = np.arctan2(relative[:, 1], relative[:, 0])
        step = (top - bottom) / (block.rings - 1)
        ring = (top - elevation) / step
        column = (side - azimuth) / (2 * side / 80)
        np.testing.assert_allclose(ring, np.round(ring), atol=0.02)
        np.testing.assert_allclose(column, np.round(column), atol=0.02)
        assert ring.max() == pytest.approx(block.rings - 1, abs=0.02)
        assert ((returns.intensity >= 0) & (returns.intensity <= 1)).all()


def test_lidar_agrees_with_the_depth_image(street):
    layout = make_layout(3, "city")
    layout.models.clear()
    street.load(layout, build_geometry(layout), NOON)
    view = View(320, 160, 240.0, 159.5, 79.5, optical_pose(layout.road.points(0, layout.ego_offset, 1.65), 0.0))
    depth = street.depth(view)
    lidar_pose = np.eye(4)
    lidar_pose[:3, 3] = view.pose[:3, 3]  # at the camera, so that both see the same surfaces
    returns = street.lidar(lidar_pose, RingBlock(2.0, -15.0, 40), np.radians(25), 120)
    points = (returns.points - view.pose[:3, 3]) @ view.pose[:3, :3]
    pixels = np.round(points[:, :2] / points[:, 2:] * view.focal + [view.cx, view.cy]).astype(int)
    inside = ((pixels >= 0) & (pixels < [view.width, view.height])).all(1)
    seen = depth[pixels[inside, 1], pixels[inside, 0]]
    agreement = np.abs(points[inside, 2] / seen - 1)
    assert inside.sum() > 2000
    assert np.median(agreement) < 0.01  # half a pixel on the road
    assert (agreement < 0.05).mean() > 0.93  # the rest are silhouettes, rounded to the other side


def test_no_far_pixels_shine_through_seams(street):
    """A single pixel much farther than all its neighbours would be a ray that slipped between two faces."""
    for seed in (1, 2, 4):
        layout = make_layout(seed, "city")
        layout.models.clear()
        layout.posts.clear()
        street.load(layout, build_geometry(layout), NOON)
        view = View(400, 200, 260.0, 199.5, 99.5, optical_pose(layout.road.points(0, layout.ego_offset, 1.65), 0.0))
        depth = np.minimum(street.depth(view), 1e4)
        neighbours = np.stack([np.roll(depth, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j])
        holes = depth > 3 * neighbours.max(0)
        assert not holes[1:-1, 1:-1].any()


def test_pictures_do_not_depend_on_what_was_rendered_before(street):
    first, second = make_layout(11, "residential"), make_layout(12, "city")
    first.models.clear()
    second.models.clear()
    view = camera(96, 64, 80.0, 47.5, 31.5)
    pictures = []
    for layout in (first, second, first):
        street.load(layout, build_geometry(layout), NOON)
        pictures.append((street.colour(view), street.depth(view)))
    np.testing.assert_array_equal(pictures[0][0], pictures[2][0])
    np.testing.assert_array_equal(pictures[0][1], pictures[2][1])
    assert np.abs(pictures[0][0] - pictures[1][0]).mean() > 0.01

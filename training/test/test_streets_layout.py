"""Streets are decided by their seed, and nothing in them stands in anything else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sem_depth_training.streets.layout import (
    SolidBox,
    StreetLayout,
    all_overlaps,
    building_box,
    make_layout,
    model_boxes,
)
from sem_depth_training.streets.road import STYLES, Road
from sem_depth_training.streets.street import build_geometry

SPEED = 9.0


def _decided(layout: StreetLayout) -> tuple[object, ...]:
    """All that was decided of a street."""
    lists = (layout.models, layout.buildings, layout.posts, layout.barriers, layout.crossings, layout.side_streets)
    return (layout.style, layout.section, layout.ego_lane, layout.terrain, *map(tuple, lists))


@pytest.mark.parametrize("style", STYLES)
def test_a_seed_decides_the_street(style):
    first, again, other = (make_layout(seed, style) for seed in (5, 5, 6))
    assert _decided(first) == _decided(again)
    assert _decided(first) != _decided(other)
    triangles, repeated = build_geometry(first).triangles(), build_geometry(again).triangles()
    assert triangles.keys() == repeated.keys()
    for name, (vertices, uv) in triangles.items():
        np.testing.assert_array_equal(vertices, repeated[name][0])
        np.testing.assert_array_equal(uv, repeated[name][1])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_overlaps_while_the_traffic_moves(style, seed):
    layout = make_layout(seed, style, length=300.0, ego_speed=SPEED)
    for time in (0.0, 3.0, 7.0):
        assert all_overlaps(layout.solids(time)) == [], f"at {time} s"


@pytest.mark.parametrize("style", STYLES)
def test_the_camera_has_its_own_place_in_the_lane(style):
    for seed in range(5):
        layout = make_layout(seed, style, ego_stations=(12.0,), length=270.0)
        x, y, _ = layout.road.points(12.0, layout.ego_offset)
        ego = SolidBox((x, y), 4.5, 1.8, layout.road.heading(12.0), 0.1, 1.6)
        assert not [box for placed in layout.models for box in model_boxes(layout.road, placed) if box.overlaps(ego)]


boxes = st.builds(
    SolidBox,
    centre=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
    length=st.floats(0.5, 6),
    width=st.floats(0.5, 6),
    yaw=st.floats(-3.2, 3.2),
    bottom=st.just(0.0),
    top=st.just(1.0),
)


@given(boxes, boxes)
@settings(max_examples=60, deadline=None)
def test_overlap_agrees_with_points_inside(a, b):
    assert a.overlaps(b) == b.overlaps(a)
    grid = (np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 15), np.linspace(-0.5, 0.5, 15)), -1)).reshape(-1, 2)

    def to_world(box, points):
        rotation = np.array([[np.cos(box.yaw), -np.sin(box.yaw)], [np.sin(box.yaw), np.cos(box.yaw)]])
        return np.asarray(box.centre) + (points * [box.length, box.width]) @ rotation.T

    points = to_world(a, 0.999 * grid) - np.asarray(b.centre)
    rotation = np.array([[np.cos(b.yaw), -np.sin(b.yaw)], [np.sin(b.yaw), np.cos(b.yaw)]])
    inside = (np.abs(points @ rotation) < np.array([b.length, b.width]) / 2 * 0.999).all(1)
    if inside.any():  # a shared point proves an overlap; a coarse grid cannot prove there is none
        assert a.overlaps(b)


def test_boxes_above_each_other_do_not_overlap():
    trunk = SolidBox((0, 0), 1, 1, 0.3, 0.0, 2.0)
    crown = SolidBox((0, 0), 4, 4, 0.0, 2.0, 8.0)
    assert not trunk.overlaps(crown)
    assert SolidBox((0, 0), 1, 1, 0.0, 1.5, 2.5).overlaps(crown)


def test_road_geometry():
    road = Road(-40.0, 200.0, curvature=1 / 100, grade=0.03)
    np.testing.assert_allclose(road.points(0.0, 0.0), [0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(road.points(0.0, 2.0), [0, 2, 0], atol=1e-9)  # offsets are to the left
    stations = np.arange(0, 199.0)
    steps = np.linalg.norm(np.diff(road.points(stations, 0.0)[:, :2], axis=0), axis=1)
    np.testing.assert_allclose(steps, 1.0, atol=1e-3)
    assert road.heading(150.0) > 0.5  # positive curvature turns left
    assert road.points(150.0, 0.0)[2] > 2.0


@pytest.mark.parametrize("style", ["residential", "country", "highway", "wooded", "junction"])
def test_trees_stand_on_the_land(style):
    layout = make_layout(2, style)
    ground = [
        vertices.reshape(-1, 3)
        for name, (vertices, _) in build_geometry(layout).triangles().items()
        if name.startswith("grass")
    ]
    ground = np.concatenate(ground)
    trees = [placed for placed in layout.models if placed.model.kind == "tree"]
    assert len(trees) > 5
    for tree in trees:
        x, y, z = layout.pose(tree)[:3, 3]
        near = ground[np.hypot(ground[:, 0] - x, ground[:, 1] - y) < 12.0]
        if len(near):
            assert near[:, 2].min() - 0.3 < z < near[:, 2].max() + 0.05


def test_woods_close_the_view_to_the_sides():
    """Along most of a wooded street's sides something grows between the road and 20 m, and higher than a man."""
    shares = []
    for seed in range(6):
        layout = make_layout(seed, "wooded", length=320.0)
        grown = [
            placed for placed in layout.models if placed.model.kind in ("tree", "hedge") or "bush" in placed.model.name
        ]
        for side in (-1, 1):
            tall = [
                placed.station
                for placed in grown
                if 0 < side * placed.offset < layout.section.edge + 20 and placed.model.height * placed.scale > 1.8
            ]
            stretches = np.histogram(tall, np.arange(0, 300, 10.0))[0]
            shares.append((stretches > 0).mean())
    assert np.mean(shares) > 0.6


@pytest.mark.parametrize("seed", range(4))
def test_side_streets_carry_traffic_and_nothing_else(seed):
    layout = make_layout(seed, "junction", length=320.0, ego_stations=(5.0, 60.0, 110.0))
    assert len(layout.side_streets) == 2
    asphalt = np.concatenate(
        [
            vertices.reshape(-1, 3)
            for name, (vertices, _) in build_geometry(layout).triangles().items()
            if name.startswith("asphalt")
        ]
    )
    across = 0
    for side in layout.side_streets:
        for placed in layout.models:
            if abs(placed.station - side.station) >= side.half_width:
                continue
            assert placed.model.kind in ("car", "van", "heavy"), placed
            if abs(placed.turn) == np.pi / 2:
                across += 1  # keeps right: who drives to the right does so on the near side
                assert (placed.turn < 0) == (placed.station < side.station)
        for post in layout.posts:
            assert abs(post.station - side.station) >= side.half_width
        for offset in (-50.0, 50.0):  # the road goes on there, level with this one
            x, y, _ = layout.road.points(side.station, offset)
            near = asphalt[np.hypot(asphalt[:, 0] - x, asphalt[:, 1] - y) < 5.0]
            assert len(near)
            stations = side.station + np.linspace(-side.half_width, side.half_width, 161)
            level = layout.road.points(stations[:, None], offset + np.linspace(-6, 6, 121)[None]).reshape(-1, 3)
            below = [level[np.hypot(*(level[:, :2] - vertex[:2]).T).argmin(), 2] for vertex in near]
            np.testing.assert_allclose(near[:, 2], below, atol=0.02)
    assert across > 5
    for box in map(building_box, layout.buildings):
        along = np.array([np.cos(box.yaw), np.sin(box.yaw)])
        from_middle = asphalt[:, :2] - box.centre
        ahead, aside = from_middle @ along, from_middle @ np.array([-along[1], along[0]])
        assert not ((abs(ahead) < box.length / 2) & (abs(aside) < box.width / 2)).any(), "a house on the asphalt"

"""Transforms are chained, interpolated, and forgotten in time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sem_depth_node.transforms import TransformError, TransformTree

SECOND = 1_000_000_000


def transform(parent: str, child: str, time: int, x: float = 0.0, yaw: float = 0.0) -> Any:
    """A TransformStamped: moved along x, turned about z."""
    half = yaw / 2
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=parent, stamp=SimpleNamespace(sec=time // SECOND, nanosec=time % SECOND)),
        child_frame_id=child,
        transform=SimpleNamespace(
            translation=SimpleNamespace(x=x, y=0.0, z=0.0),
            rotation=SimpleNamespace(x=0.0, y=0.0, z=np.sin(half), w=np.cos(half)),
        ),
    )


def x_of(tree: TransformTree, time: int) -> float:
    return float(tree.lookup("map", "base", time)[0, 3])


def test_a_point_goes_up_one_branch_and_down_another() -> None:
    tree = TransformTree(
        [
            (transform("base", "lidar", 0, x=1.0), True),
            (transform("base", "camera", 0, x=3.0, yaw=np.pi / 2), True),
        ]
    )
    # One metre ahead of the lidar is 2 m along x of base: 1 m behind the camera, which looks along y of base.
    found = tree.lookup("camera", "lidar", 0) @ [1.0, 0.0, 0.0, 1.0]
    np.testing.assert_allclose(found, [0.0, 1.0, 0.0, 1.0], atol=1e-12)


def test_a_frame_to_itself_needs_no_transform() -> None:
    np.testing.assert_array_equal(TransformTree().lookup("camera", "camera", 0), np.eye(4))


def test_frames_that_are_not_connected_are_named() -> None:
    tree = TransformTree([(transform("base", "lidar", 0), True)])
    with pytest.raises(TransformError, match=r"'lidar' to 'camera'.*base, lidar"):
        tree.lookup("camera", "lidar", 0)


def test_between_two_times_a_pose_is_interpolated_and_beyond_them_held() -> None:
    tree = TransformTree([(transform("map", "base", t * SECOND, x=10.0 * t), False) for t in (2, 1)])
    assert [x_of(tree, round(t * SECOND)) for t in (0.0, 1.25, 9.0)] == pytest.approx([10.0, 12.5, 20.0])


def test_a_pose_that_nobody_told_of_for_long_is_none_where_it_is_to_be_fresh() -> None:
    tree = TransformTree([(transform("map", "base", t * SECOND, x=10.0 * t), False) for t in (2, 1)], held=SECOND)
    assert [x_of(tree, round(t * SECOND)) for t in (0.0, 3.0)] == pytest.approx([10.0, 20.0])
    with pytest.raises(TransformError, match=r"from 'base' to 'map': its pose nearest in time is 1\.5 s away"):
        x_of(tree, round(3.5 * SECOND))
    still = TransformTree([(transform("map", "base", 0, x=4.0), True)], held=SECOND)
    assert x_of(still, 9 * SECOND) == 4.0


def test_of_a_static_transform_the_latest_counts_at_all_times() -> None:
    tree = TransformTree([(transform("map", "base", t * SECOND, x=10.0 * t), True) for t in (2, 3, 1)])
    assert [x_of(tree, t * SECOND) for t in (0, 1, 9)] == [30.0] * 3


def test_in_a_living_tree_the_static_transform_that_came_last_counts() -> None:
    tree = TransformTree(window=2 * SECOND)
    for seconds in (50, 3):  # the simulation began anew
        tree.add(transform("map", "base", seconds * SECOND, x=10.0 * seconds), True)
    assert tree.lookup("map", "base", 4 * SECOND)[0, 3] == 30


def test_a_tree_with_a_window_forgets_what_is_far_in_time() -> None:
    tree = TransformTree(window=2 * SECOND)
    for t in range(10):
        tree.add(transform("map", "base", t * SECOND, x=float(t)), static=False)
    assert x_of(tree, 0) == 7.0
    tree.add(transform("map", "base", SECOND, x=50.0), static=False)  # the clock jumped back: the rest is future
    assert x_of(tree, 9 * SECOND) == 50.0


def test_a_quaternion_without_length_is_refused() -> None:
    broken = transform("map", "base", 0)
    broken.transform.rotation = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=0.0)
    with pytest.raises(ValueError, match="no rotation"):
        TransformTree([(broken, True)])
    broken.transform.rotation.w = np.inf
    with pytest.raises(ValueError, match="not all finite"):
        TransformTree([(broken, True)])

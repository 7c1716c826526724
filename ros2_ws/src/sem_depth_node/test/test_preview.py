"""The picture of depth."""

import numpy as np
import pytest

from sem_depth_node.preview import BEYOND_RANGE_BGR, INVALID_BGR, DepthPainter


def paint(depth: list[float], near: float = 3.0) -> np.ndarray:
    out = np.empty((1, len(depth), 3), np.uint8)
    DepthPainter(near).paint(np.array([depth], np.float32), out)
    return out[0]


def test_invalid_and_beyond_range_have_colours_of_their_own() -> None:
    colours = paint([np.nan, np.inf, *(3 / np.linspace(0.001, 1, 2000))])
    assert tuple(colours[0]) == INVALID_BGR
    assert tuple(colours[1]) == BEYOND_RANGE_BGR
    depths = {tuple(colour) for colour in colours[2:]}
    assert not depths & {INVALID_BGR, BEYOND_RANGE_BGR}
    assert len(depths) > 200


def test_near_is_red_and_far_is_blue() -> None:
    near, far = paint([3.0, 1000.0]).astype(int)
    assert near[2] > near[0] + 50
    assert far[0] > far[2]


def test_nearer_than_the_scale_is_its_end() -> None:
    nearest, end = paint([0.01, 3.0])
    assert nearest.tolist() == end.tolist()


@pytest.mark.parametrize("near", [0.5, 10.0])
def test_the_scale_starts_where_it_is_told(near: float) -> None:
    assert paint([near], near)[0].tolist() == paint([3.0])[0].tolist()
    assert paint([2 * near], near)[0].tolist() == paint([6.0])[0].tolist()

"""Depth completed from stereo pairs, on a pair whose geometry is known: a wall at 10 m under a blue sky."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sem_depth_training.data.frames import DataError, read_index
from sem_depth_training.data.sky import below_measured, sky_mask
from sem_depth_training.data.stereo import complete_index, match, stereo_pairs

WIDTH, HEIGHT, SKYLINE = 480, 160, 60
FOCAL, BASELINE, WALL = 400.0, 0.5, 10.0
DISPARITY = int(FOCAL * BASELINE / WALL)


@pytest.fixture(scope="module")
def pair() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Left and right RGB images of the wall and the sky."""
    random = np.random.default_rng(3)
    texture = random.integers(0, 200, (HEIGHT // 4, (WIDTH + DISPARITY) // 4 + 1, 3), dtype=np.uint8)
    scene = cv2.resize(texture, (WIDTH + DISPARITY, HEIGHT), interpolation=cv2.INTER_CUBIC)
    scene[:SKYLINE] = (90, 150, 240)
    return scene[:, :WIDTH].copy(), scene[:, DISPARITY:].copy()


def write_pair(folder: Path, pair: tuple[NDArray[np.uint8], NDArray[np.uint8]], measured: float = 10.5) -> Path:
    lidar = np.zeros((HEIGHT, WIDTH), np.uint16)
    lidar[-20::4, ::6] = measured * 256
    rows = []
    for side, letter, image in (("left", "l", pair[0]), ("right", "r", pair[1])):
        cv2.imwrite(
            str(folder / f"0{letter}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 98]
        )
        cv2.imwrite(str(folder / f"0{letter}.png"), lidar)
        rows.append(
            {"split": "train", "sequence": "s", "camera": side, "image": f"0{letter}.jpg", "depth": f"0{letter}.png"}
            | {"fx": FOCAL, "fy": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "width": WIDTH, "height": HEIGHT}
            | {"gt_kind": "lidar", "licence": "CC0-1.0"}
        )
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "index.csv"


def test_matching_finds_the_wall_from_both_cameras_and_nothing_in_the_sky(
    pair: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    for disparity in match(*pair):
        wall = disparity[SKYLINE + 10 :]
        assert (wall > 0).mean() > 0.8
        np.testing.assert_allclose(np.median(wall[wall > 0]), DISPARITY, atol=0.25)
        assert not disparity[: SKYLINE - 15].any()


def test_sky_is_blue_smooth_and_joined_to_the_top(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    image = pair[0].copy()
    image[100:140, 100:200] = (90, 150, 240)  # a blue lorry is no sky
    sky = sky_mask(image, np.zeros((HEIGHT, WIDTH), bool))
    assert sky[: SKYLINE - 10].all()
    assert not sky[SKYLINE:].any()


def test_what_a_lidar_measured_and_what_is_below_it_is_no_sky(
    pair: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    u, v = np.arange(100, 132, dtype=np.int16), np.full(32, 20, np.int16)  # a pole against the sky
    sky = sky_mask(pair[0], below_measured(u, v, HEIGHT, WIDTH))
    assert sky[:10, 100:128].all()
    assert not sky[16:, 100:128].any()
    assert sky[: SKYLINE - 10, 200:].all()


def test_a_grey_wall_up_to_the_top_is_not_taken_for_sky() -> None:
    wall = np.full((HEIGHT, WIDTH, 3), 180, np.uint8)
    assert not sky_mask(wall, np.zeros((HEIGHT, WIDTH), bool)).any()


@pytest.mark.parametrize(("measured", "wall"), [(10.5, 10.5), (0.0, WALL)])
def test_a_completed_index_keeps_the_lidar_and_fills_what_it_left_open_in_accord_with_it(
    tmp_path: Path, pair: tuple[NDArray[np.uint8], NDArray[np.uint8]], measured: float, wall: float
) -> None:
    index = write_pair(tmp_path, pair, measured)
    frames = read_index(complete_index(stereo_pairs(index, "train"), tmp_path / "stereo", BASELINE), "train")
    assert len(frames) == 2
    for frame in frames:
        depth, sky = frame.read_depth(), frame.read_sky()
        if measured:
            assert (depth[-20::4, ::6] == measured).all()
        filled = depth[SKYLINE + 10 : 100]
        assert (filled > 0).mean() > 0.15
        np.testing.assert_allclose(np.median(filled[filled > 0]), wall, rtol=0.02)
        assert sky[:30].mean() > 0.9
        assert not (sky & (depth > 0)).any()


def test_a_wrong_baseline_is_told_by_the_lidar(
    tmp_path: Path, pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    index = write_pair(tmp_path, pair)
    with pytest.raises(DataError, match=r"0l\.jpg: its stereo pair is off by -?\d+\.\d pixels .*check the baseline"):
        complete_index(stereo_pairs(index, "train"), tmp_path / "stereo", 2 * BASELINE)


def test_an_index_without_pairs_is_an_error(tmp_path: Path, pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    index = write_pair(tmp_path, pair)
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(DataError, match="no stereo pairs"):
        stereo_pairs(index, "train")

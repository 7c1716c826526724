"""Every data set in its official layout, written here, gives frames whose depth is where the camera saw it."""

import csv
from pathlib import Path

import cv2
import kitti_samples as kitti
import numpy as np
import pytest
import waymo_samples as waymo
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from sem_depth_node.metrics import evaluation_mask
from sem_depth_training.cli import app
from sem_depth_training.config import ConfigError, read_config, read_source_config
from sem_depth_training.data.frames import DataError, read_index
from sem_depth_training.data.kitti import eigen_frames
from sem_depth_training.data.sources import (
    IndexSource,
    KittiSelectionSource,
    KittiSource,
    WaymoSource,
    read_sources,
)

LINES = [f"2011_10_03/{kitti.DRIVE}_sync {frame:010d} {side}" for frame in (0, 2) for side in "lr"]


def annotation(frame: int, camera: int) -> NDArray[np.uint16]:
    depth = np.zeros((kitti.HEIGHT, kitti.WIDTH), np.uint16)
    depth[20, 10 + frame] = (5 + camera) * 256
    return depth


@pytest.fixture
def eigen(tmp_path: Path) -> KittiSource:
    """Two frames of a raw drive, both cameras, annotated in train/."""
    kitti.write_raw_drive(tmp_path / "raw")
    for frame in (0, 2):
        for camera in (2, 3):
            folder = f"annotated/train/{kitti.DRIVE}_sync/proj_depth/groundtruth/image_{camera:02d}"
            path = tmp_path / folder / f"{frame:010d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), annotation(frame, camera))
    split = tmp_path / "eigen_train_files.txt"
    split.write_text("\n".join(LINES) + "\n")
    return KittiSource(kind="kitti", name="KITTI", raw=tmp_path / "raw", split_file=split, depth=tmp_path / "annotated")


def test_an_eigen_split_gives_image_camera_and_annotated_depth(eigen: KittiSource) -> None:
    (frames,) = read_sources([eigen])
    assert [frame.sequence for frame in frames] == [f"{kitti.DRIVE}_sync_{n:02d}" for n in (2, 3, 2, 3)]
    for frame, (number, camera) in zip(frames, [(0, 2), (0, 3), (2, 2), (2, 3)], strict=True):
        assert (frame.read_image() == kitti.picture((kitti.WIDTH, kitti.HEIGHT), camera, number)[..., ::-1]).all()
        assert (frame.read_depth() * 256 == annotation(number, camera)).all()
        np.testing.assert_allclose(frame.camera.K, kitti.RIG.K_rect)
        assert "BY-NC-SA" in frame.licence


def test_a_split_file_of_paths_is_the_same(eigen: KittiSource, tmp_path: Path) -> None:
    (by_side,) = read_sources([eigen])
    lines = [
        f"2011_10_03/{kitti.DRIVE}_sync/image_0{camera}/data/{frame:010d}.png {kitti.DRIVE}_sync/proj_depth/x.png 721.5"
        for frame in (0, 2)
        for camera in (2, 3)
    ]
    paths = tmp_path / "paths.txt"
    paths.write_text("\n".join(lines))
    assert read_sources([eigen.model_copy(update={"split_file": paths})])[0] == by_side


def test_without_annotations_the_scan_is_projected_as_kitti_does(eigen: KittiSource) -> None:
    (frames,) = read_sources([eigen.model_copy(update={"depth": None})])
    pixels, depths = kitti.RIG.rectified_pixels(3, kitti.points()[:, :3].astype(np.float64))
    seen = frames[1].read_depth()
    found = 0
    for (u, v), z in zip(np.rint(pixels).astype(int), depths, strict=True):
        if 0 <= u < kitti.WIDTH and 0 <= v < kitti.HEIGHT and seen[v, u] > 0:
            assert seen[v, u] <= z + 1e-3
            found += abs(seen[v, u] - z) < 1e-3
    assert found == (seen > 0).sum() > 10


def test_real_raw_data_gives_the_known_calibration_and_depth(shared_dir: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    split.write_text("2011_09_26/2011_09_26_drive_0009_sync 0000000005 l\n")
    (frame,) = eigen_frames(shared_dir / "data" / "kitti_raw", split, None)
    assert (frame.camera.width, frame.camera.height) == (1242, 375)
    np.testing.assert_allclose((frame.camera.fx, frame.camera.cx), (721.5377, 609.5593))
    depth = frame.read_depth()
    assert 0.02 < (depth > 0).mean() < 0.06
    assert evaluation_mask(depth).sum() > 5000
    assert frame.read_image().shape == (375, 1242, 3)


def test_all_that_is_missing_in_all_sources_is_named_together(eigen: KittiSource, tmp_path: Path) -> None:
    drive = tmp_path / "raw" / "2011_10_03" / f"{kitti.DRIVE}_sync"
    (drive / "image_02" / "data" / "0000000002.png").unlink()
    annotated = next((tmp_path / "annotated").rglob("image_03/0000000000.png"))
    annotated.unlink()
    absent = IndexSource(name="streets", index=tmp_path / "streets" / "index.csv")
    with pytest.raises(DataError) as caught:
        read_sources([absent, eigen])
    for name in ("streets/index.csv", "image_02/data/0000000002.png", "groundtruth/image_03/0000000000.png"):
        assert name in str(caught.value)
    assert "2 files are missing" in str(caught.value)

    (drive / "image_02" / "data" / "0000000002.png").write_bytes(b"x")
    (frames,) = read_sources([eigen.model_copy(update={"without_depth": "skip"})])
    assert len(frames) == 3


@pytest.mark.parametrize("annotated", [True, False])
def test_an_index_of_a_source_has_its_frames(eigen: KittiSource, tmp_path: Path, annotated: bool) -> None:
    source = eigen if annotated else eigen.model_copy(update={"depth": None})
    sources = tmp_path / "sources.yaml"
    sources.write_text(yaml.safe_dump({"data": [source.model_dump(mode="json")]}), encoding="utf-8")
    run = CliRunner().invoke(app, ["write-index", str(sources), "-o", str(tmp_path / "eigen"), "--split", "test"])
    assert run.exit_code == 0, run.output
    (expected,), found = read_sources([source]), read_index(tmp_path / "eigen" / "index.csv", "test")
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        assert (one.image, one.camera, one.sequence, one.licence) == (
            *(other.image, other.camera, other.sequence, other.licence),
        )
        np.testing.assert_allclose(one.read_depth(), other.read_depth(), atol=1 / 512)
    sources.write_text("data: []\nsteps: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sources\.yaml:(.|\n)*data: (.|\n)*steps: "):
        read_source_config(sources)


def test_wrong_split_files_say_what_is_wrong(eigen: KittiSource, tmp_path: Path) -> None:
    eigen.split_file.write_text("\n".join([*LINES, "2011_10_03/drive 5 x"]))
    with pytest.raises(DataError, match=r"eigen_train_files\.txt: line 5: '2011_10_03/drive 5 x', expected"):
        read_sources([eigen])
    eigen.split_file.write_text("2011_10_04/2011_10_04_drive_0001_sync 5 l\n")
    with pytest.raises(DataError, match=r"2011_10_04/calib_\w+\.txt: missing"):
        read_sources([eigen])
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read"):
        read_sources([eigen.model_copy(update={"split_file": tmp_path / "nowhere.txt"})])


def write_selection(folder: Path) -> None:
    name = "2011_09_26_drive_0002_sync_{}_0000000005_image_02"
    for part in ("image", "groundtruth_depth", "intrinsics"):
        (folder / part).mkdir(parents=True)
    cv2.imwrite(str(folder / "image" / f"{name.format('image')}.png"), np.full((352, 1216, 3), 90, np.uint8))
    depth = np.full((352, 1216), 7 * 256, np.uint16)
    cv2.imwrite(str(folder / "groundtruth_depth" / f"{name.format('groundtruth_depth')}.png"), depth)
    numbers = "721.5377 0.0 596.5593 0.0 721.5377 149.854 0.0 0.0 1.0"
    (folder / "intrinsics" / f"{name.format('image')}.txt").write_text(numbers)


def test_the_depth_selection_has_its_own_intrinsics(tmp_path: Path) -> None:
    source = KittiSelectionSource(kind="kitti_selection", name="selection", folder=tmp_path / "val_selection_cropped")
    write_selection(source.folder)
    ((frame,),) = read_sources([source])
    assert (frame.camera.fx, frame.camera.fy, frame.camera.cx, frame.camera.cy) == (
        721.5377,
        721.5377,
        596.5593,
        149.854,
    )
    assert (frame.read_depth() == 7).all()
    next((source.folder / "intrinsics").iterdir()).write_text("721.5 0.0")
    with pytest.raises(DataError, match=r"0000000005_image_02\.txt: expected the nine numbers of K"):
        read_sources([source])
    with pytest.raises(DataError, match=r"nowhere: no image/"):
        read_sources([source.model_copy(update={"folder": tmp_path / "nowhere"})])


def test_waymo_frames_are_rectified_once_and_their_depth_is_where_the_camera_saw_it(tmp_path: Path) -> None:
    drive = waymo.WaymoDrive()
    drive.write(tmp_path / "training")
    source = WaymoSource(
        kind="waymo",
        name="Waymo",
        folder=tmp_path / "training",
        prepared=tmp_path / "prepared",
        cameras=["front", "side_left"],
        every=1,
        width=240,
    )
    (frames,) = read_sources([source])
    assert len(frames) == 2 * drive.frames
    compared = 0
    for number, frame in enumerate(frame for frame in frames if frame.image.stem.endswith("_front")):
        assert frame.read_image().shape == (160, 240, 3)
        assert "Non-Commercial" in frame.licence
        micros = waymo.START + number * waymo.PERIOD
        pose = waymo.vehicle_pose(micros + waymo.IMAGE_DELAYS[1]) @ waymo.VEHICLE_FROM_CAMERA[1]
        world = np.vstack((drive.world[number].T, np.ones(len(drive.world[number]))))
        x, y, z = (np.linalg.inv(pose) @ world)[:3]
        seen = x > 1
        optical = np.stack((-y[seen], -z[seen], x[seen]), axis=1)
        pixels, depth = np.rint(frame.camera.project(optical)).astype(int), frame.read_depth()
        for (u, v), metres in zip(pixels, optical[:, 2], strict=True):
            if 0 <= u < 240 and 0 <= v < 160 and depth[v, u] > 0:
                assert depth[v, u] <= metres + 1 / 128
                compared += abs(depth[v, u] - metres) < 1 / 128
    assert compared > 5
    written = (tmp_path / "prepared" / "index.csv").stat().st_mtime_ns, frames[0].image.stat().st_mtime_ns
    read_sources([source])
    assert frames[0].image.stat().st_mtime_ns == written[1], "prepared once"
    with pytest.raises(DataError, match=r"prepared: was prepared with .*'every': 1.* name another folder"):
        read_sources([source.model_copy(update={"every": 2})])
    with pytest.raises(DataError, match=r"nothing: no camera_image/SEGMENT\.parquet"):
        read_sources([source.model_copy(update={"folder": tmp_path / "nothing"})])


def test_stereo_pairs_know_their_partner(driving_index: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(driving_index.open()))[:2]
    for row, side in zip(rows, "lr", strict=True):
        cv2.imwrite(str(tmp_path / f"7{side}.jpg"), cv2.imread(str(tmp_path / row["image"])))
        row["image"] = f"7{side}.jpg"
    with driving_index.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    source = IndexSource(name="pairs", index=driving_index, baseline=0.54)
    ((left, right),) = read_sources([source])
    assert (left.partner, left.shift) == (right.image, 0.54)
    assert (right.partner, right.shift) == (left.image, -0.54)
    assert (left.read_partner() == right.read_image()).all()


def test_a_source_takes_the_sequences_that_it_names(driving_index: Path) -> None:
    def taken(*patterns: str) -> set[str]:
        source = IndexSource(name="KITTI", index=driving_index, sequences=list(patterns))
        return {frame.sequence for frame in read_sources([source])[0]}

    assert taken("*") == {"s0", "s1", "s2", "s3"}
    assert taken("s[01]") == {"s0", "s1"}
    assert taken("!s1", "s[01]", "s3") == {"s0", "s3"}, "in whatever order"
    with pytest.raises(DataError, match=r"index\.csv: sequences: '!s4' matches no sequence of split 'train', .*s0, s1"):
        taken("*", "!s4")
    with pytest.raises(DataError, match=r"index\.csv: sequences: \['!s1'\] leave no frame"):
        taken("!s1")


def test_wrong_keys_of_a_source_are_named(tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text(
        "steps: 1\nbundle: {name: n, description: d, weights_licence: l}\n"
        "data:\n  - {kind: kitti, name: K, raw: a, splitfile: b}\n  - {kind: katti, name: K}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    for words in ("data.0.kitti.split_file: Field required", "data.0.kitti.splitfile: Extra inputs", "'katti'"):
        assert words in str(caught.value)

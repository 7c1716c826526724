"""Waymo segments become bags in which a known point of the world is where the camera saw it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import waymo_frames
import waymo_samples as waymo
from numpy.typing import NDArray
from waymo_samples import SEGMENT, WaymoDrive

from sem_depth_node.bags.evaluate import LidarDepth
from sem_depth_node.bags.messages import depth_metres
from sem_depth_node.bags.process import FrameEstimator, process_bag
from sem_depth_node.bags.reader import BagError, BagReader
from sem_depth_node.bags.streams import find_camera, find_lidar
from sem_depth_node.bags.transforms import transforms_of
from sem_depth_node.bags.waymo.convert import WaymoReport, waymo_to_bag
from sem_depth_node.bags.waymo.parquet import ParquetSegment
from sem_depth_node.bags.waymo.segment import CAMERAS, WaymoError
from sem_depth_node.bags.waymo.tfrecord import TfrecordSegment
from sem_depth_node.bundle import ModelBundle
from sem_depth_node.camera_info import camera_from_info
from sem_depth_node.cloud_decoding import xyz
from sem_depth_node.engines.select import open_engines
from sem_depth_node.estimator import DepthEstimator
from sem_depth_node.stamps import nanoseconds


@pytest.fixture(scope="module")
def drive() -> WaymoDrive:
    return WaymoDrive()


@pytest.fixture(scope="module")
def folder(drive: WaymoDrive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drive.write(tmp_path_factory.mktemp("waymo") / "training")


@pytest.fixture(scope="module")
def bag_path(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "waymo"
    waymo_to_bag(ParquetSegment(folder), path)
    return path


def messages_on(bag: BagReader, topic: str) -> list[Any]:
    return [bag.decode(message) for message in bag.messages([topic])]


def in_order(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points[np.lexsort(points.round(3).T)]


def test_points_of_all_lasers_and_returns_are_where_they_are_in_the_world(drive: WaymoDrive, bag_path: Path) -> None:
    with BagReader(bag_path) as bag:
        tree = transforms_of(bag)
        clouds = messages_on(bag, "/waymo/lidar/points")
        assert len(clouds) == drive.frames
        for cloud, world in zip(clouds, drive.world, strict=True):
            to_map = tree.lookup("map", cloud.header.frame_id, nanoseconds(cloud.header.stamp))
            found = xyz(cloud) @ to_map[:3, :3].T + to_map[:3, 3]
            # The schema stores each pixel's pose in float32: 8 micrometres at 120 m, and 4e-8 rad at 60 m.
            np.testing.assert_allclose(in_order(found), in_order(world), atol=1e-4)


@pytest.mark.parametrize("number", CAMERAS)
def test_a_world_point_is_on_the_pixel_where_the_camera_saw_it(drive: WaymoDrive, bag_path: Path, number: int) -> None:
    """By the bag's transforms and camera_info alone, in OpenCV's camera model."""
    camera = CAMERAS[number]
    compared = 0
    with BagReader(bag_path) as bag:
        tree = transforms_of(bag)
        images = messages_on(bag, f"/waymo/camera_{camera}/image_raw/compressed")
        infos = messages_on(bag, f"/waymo/camera_{camera}/camera_info")
        for frame, (image, info) in enumerate(zip(images, infos, strict=True)):
            time = nanoseconds(image.header.stamp)
            to_camera = tree.lookup(image.header.frame_id, "map", time)
            optical = drive.world[frame] @ to_camera[:3, :3].T + to_camera[:3, 3]
            expected = waymo.seen_at(drive.world[frame], number, waymo.START + frame * waymo.PERIOD)
            seen = np.isfinite(expected).all(axis=1)
            assert info.distortion_model == "plumb_bob"
            found, _ = cv2.projectPoints(optical[seen], np.zeros(3), np.zeros(3), info.k.reshape(3, 3), info.d)
            # Pixel 0 is centred on 0 in ROS, and on 0.5 at Waymo.
            np.testing.assert_allclose(found[:, 0], expected[seen] - 0.5, atol=0.01)
            compared += seen.sum()
    assert compared > 10


def test_the_middle_column_looks_ahead_and_the_first_row_up(tmp_path: Path) -> None:
    """Whichever way the laser itself is mounted."""
    drive = WaymoDrive(frames=1)
    rows, columns = waymo.TOP_SHAPE
    image = np.full((rows, columns, 4), -1, np.float32)
    for row, column in ((8, columns // 2), (8, columns // 4), (0, columns // 2), (rows - 1, columns // 2)):
        image[row, column] = 40, 1, 0, -1
    drive.rows["lidar"] = [row for row in drive.rows["lidar"] if row["key.laser_name"] == waymo.TOP]
    drive.rows["lidar"][0] |= {"range_image_return1.values": image.ravel(), "range_image_return2.values": None}
    segment = ParquetSegment(drive.write(tmp_path / "data"))
    waymo_to_bag(segment, tmp_path / "bag")
    with BagReader(tmp_path / "bag") as bag:
        up, left, ahead, down = xyz(bag.first("/waymo/lidar/points"))
    assert ahead[0] > 39
    assert abs(ahead[1]) < 3  # half a column is 1.4 m, and the vehicle turns
    assert left[1] > 38
    assert up[2] > ahead[2] > down[2]


def test_images_pass_through_untouched_at_the_time_of_their_pose(drive: WaymoDrive, bag_path: Path) -> None:
    with BagReader(bag_path) as bag:
        for number, camera in CAMERAS.items():
            images = messages_on(bag, f"/waymo/camera_{camera}/image_raw/compressed")
            assert [bytes(image.data) for image in images] == [waymo.jpeg(number, n) for n in range(drive.frames)]
            assert [nanoseconds(image.header.stamp) for image in images] == [
                (waymo.START + n * waymo.PERIOD + waymo.IMAGE_DELAYS[number]) * 1000 for n in range(drive.frames)
            ]


def test_camera_and_lidar_of_the_bag_are_found_by_the_other_commands(bag_path: Path) -> None:
    with BagReader(bag_path) as bag:
        stream = find_camera(bag, "/waymo/camera_side_left/image_raw/compressed")
        assert (stream.camera_info, stream.compressed) == ("/waymo/camera_side_left/camera_info", True)
        assert find_lidar(bag) == "/waymo/lidar/points"
        assert bag.topics["/tf_static"].qos[0].durability.name == "TRANSIENT_LOCAL"


@pytest.mark.parametrize("number", CAMERAS)
def test_the_scan_is_ground_truth_for_an_image_taken_at_another_time(
    drive: WaymoDrive, bag_path: Path, number: int
) -> None:
    """The vehicle drives on between scan and image: up to 0.25 m, for the side cameras."""
    with BagReader(bag_path) as bag:
        info = bag.first(f"/waymo/camera_{CAMERAS[number]}/camera_info")
        rectified = replace(camera_from_info(info), distortion_model="", distortion=())
        truth = LidarDepth(bag, "/waymo/lidar/points", hidden_removed=False, fixed_frame="map")
        depth = truth.at(nanoseconds(info.header.stamp), info.header.frame_id, rectified)
    assert depth is not None
    pose = waymo.vehicle_pose(waymo.START + waymo.IMAGE_DELAYS[number]) @ waymo.VEHICLE_FROM_CAMERA[number]
    ahead, left, up = pose[:3, :3].T @ (drive.world[0] - pose[:3, 3]).T
    optical = np.stack((-left, -up, ahead), axis=1)
    inside = [
        (round(v), round(u), z)
        for (u, v), z in zip(rectified.project(optical), ahead, strict=True)
        if z > 0 and -0.49 < u < rectified.width - 0.51 and -0.49 < v < rectified.height - 0.51
    ]
    assert len(inside) > 10
    for row, column, _ in inside:
        # A nearer point on the same pixel would count.
        assert depth[row, column] == pytest.approx(min(d for r, c, d in inside if (r, c) == (row, column)), abs=1e-3)


def test_processing_the_bag_rectifies_its_images(bag_path: Path, tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    out = tmp_path / "processed"
    with (
        BagReader(bag_path) as bag,
        contextlib.closing(DepthEstimator(tiny_bundle, open_engines(tiny_bundle))) as depth,
    ):
        stream = find_camera(bag, "/waymo/camera_front/image_raw/compressed")
        process_bag(bag, FrameEstimator(depth, stream), out)
    with BagReader(out) as bag:
        raw, rectified = bag.first("/waymo/camera_front/camera_info"), bag.first("/depth/camera_info")
        assert raw.d.any()
        assert not rectified.d.any()
        np.testing.assert_allclose(rectified.k, raw.k)
        found = depth_metres(bag.first("/depth/image"))
    # The lens is a barrel towards the corners, so the rectified image keeps to what was seen.
    assert np.isfinite(found).mean() > 0.9


def test_messages_are_in_order_of_time_even_where_rows_are_not(tmp_path: Path, bag_path: Path) -> None:
    shuffled = WaymoDrive()
    for component in ("camera_image", "lidar", "lidar_pose", "vehicle_pose"):
        shuffled.rows[component].reverse()
    waymo_to_bag(ParquetSegment(shuffled.write(tmp_path / "data")), tmp_path / "bag")
    with BagReader(tmp_path / "bag") as bag, BagReader(bag_path) as straight:
        times = [message.time for message in bag.messages()]
        assert times == sorted(times)
        assert times == [message.time for message in straight.messages()]
        found, expected = (in_order(xyz(b.first("/waymo/lidar/points"))) for b in (bag, straight))
        np.testing.assert_array_equal(found, expected)


def test_chosen_cameras_frames_and_no_lidar(folder: Path, tmp_path: Path) -> None:
    segment = ParquetSegment(folder, lidar=False)
    waymo_to_bag(segment, tmp_path / "bag", cameras=["front", "side_left"], max_frames=1)
    with BagReader(tmp_path / "bag") as bag:
        counts = {topic.name: topic.count for topic in bag.topics.values()}
    assert counts == {
        "/waymo/camera_front/camera_info": 1,
        "/waymo/camera_front/image_raw/compressed": 1,
        "/waymo/camera_side_left/camera_info": 1,
        "/waymo/camera_side_left/image_raw/compressed": 1,
        "/tf": 5,
        "/tf_static": 1,
    }


def test_what_frames_lack_is_reported(tmp_path: Path) -> None:
    drive = WaymoDrive()
    del drive.rows["lidar_pose"][0]
    drive.rows["camera_image"] = [
        row
        for row in drive.rows["camera_image"]
        if not (row["key.camera_name"] == 1 and row["key.frame_timestamp_micros"] == waymo.START)
    ]
    report = waymo_to_bag(ParquetSegment(drive.write(tmp_path / "data")), tmp_path / "bag")
    assert report.missing == {"image of camera front": 1, "scan of laser top": 1}
    with BagReader(tmp_path / "bag") as bag:
        tree = transforms_of(bag)
        cloud = bag.first("/waymo/lidar/points")  # of the front laser alone, placed by another camera's pose
        to_map = tree.lookup("map", cloud.header.frame_id, nanoseconds(cloud.header.stamp))
        found = xyz(cloud) @ to_map[:3, :3].T + to_map[:3, 3]
    expected = waymo.scan(waymo.FRONT_LASER, waymo.START, seed=waymo.FRONT_LASER).world
    np.testing.assert_allclose(in_order(found), in_order(expected), atol=1e-4)


def test_sensors_named_by_words_as_in_early_releases(tmp_path: Path, folder: Path) -> None:
    WaymoDrive(frames=1).write(tmp_path / "data")
    path = tmp_path / "data" / "camera_image" / f"{SEGMENT}.parquet"
    table = pq.read_table(path)
    words = [CAMERAS[number].upper() for number in table["key.camera_name"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("key.camera_name"), "key.camera_name", [words]), path)
    report = waymo_to_bag(ParquetSegment(tmp_path / "data"), tmp_path / "bag")
    assert report.images == dict.fromkeys(CAMERAS.values(), 1)


def convert(folder: Path, out: Path, **options: Any) -> WaymoReport:
    return waymo_to_bag(ParquetSegment(folder, **options), out)


def nothing_left(out: Path) -> bool:
    """Neither a bag nor what a bag was being made in."""
    return not out.exists() and not [path for path in out.parent.iterdir() if "bag" in path.name]


def test_a_folder_that_is_not_waymo(tmp_path: Path) -> None:
    (tmp_path / "image_02").mkdir()
    with pytest.raises(
        WaymoError, match=r"not the Waymo Open Dataset 2.*camera_image/SEGMENT\.parquet.*found image_02"
    ):
        convert(tmp_path, tmp_path / "bag")
    with pytest.raises(WaymoError, match="found no folder"):
        convert(tmp_path / "nowhere", tmp_path / "bag")
    (tmp_path / "segment-1.tfrecord").touch()
    with pytest.raises(WaymoError, match=r"give one of the \.tfrecord files itself"):
        convert(tmp_path, tmp_path / "bag")


def test_several_segments_need_a_name(folder: Path, tmp_path: Path) -> None:
    WaymoDrive(frames=1).write(tmp_path)
    (tmp_path / "camera_image" / "another.parquet").touch()
    with pytest.raises(WaymoError, match=f"2 segments, name one with --segment: {SEGMENT}, another"):
        convert(tmp_path, tmp_path / "bag")
    assert convert(tmp_path, tmp_path / "bag", name=SEGMENT).frames == 1


@pytest.mark.parametrize("component", waymo.SCHEMA)
def test_a_missing_component_is_named(component: str, tmp_path: Path) -> None:
    WaymoDrive(frames=1).write(tmp_path)
    (tmp_path / component / f"{SEGMENT}.parquet").unlink()
    with pytest.raises(WaymoError, match=component):
        convert(tmp_path, tmp_path / "bag")
    assert nothing_left(tmp_path / "bag")


@pytest.mark.parametrize("component", ["camera_calibration", "camera_image", "lidar_pose"])
def test_an_unreadable_parquet_is_named_and_leaves_nothing(component: str, tmp_path: Path) -> None:
    WaymoDrive(frames=1).write(tmp_path)
    path = tmp_path / component / f"{SEGMENT}.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WaymoError, match=f"{component}/{SEGMENT}.parquet: unreadable parquet"):
        convert(tmp_path, tmp_path / "bag")
    assert nothing_left(tmp_path / "bag")


def test_a_parquet_damaged_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    WaymoDrive().write(tmp_path)
    path = tmp_path / "lidar" / f"{SEGMENT}.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    with pytest.raises(WaymoError, match=f"lidar/{SEGMENT}.parquet"):
        convert(tmp_path, tmp_path / "bag")
    assert nothing_left(tmp_path / "bag")


def test_a_component_in_the_wrong_folder_is_named(tmp_path: Path) -> None:
    WaymoDrive(frames=1).write(tmp_path)
    wrong, right = (tmp_path / name / f"{SEGMENT}.parquet" for name in ("lidar_pose", "vehicle_pose"))
    right.write_bytes(wrong.read_bytes())
    with pytest.raises(WaymoError, match=r"no column \[VehiclePoseComponent\].world_from_vehicle.transform"):
        convert(tmp_path, tmp_path / "bag")


def test_mixed_segments_are_refused(tmp_path: Path) -> None:
    drive = WaymoDrive()
    drive.rows["lidar"][-1]["key.segment_context_name"] = "20000000000000000000_1_000_2_000"
    with pytest.raises(WaymoError, match=r"lidar.*rows of another segment: 20000000000000000000_1_000_2_000"):
        convert(drive.write(tmp_path), tmp_path / "bag")
    assert nothing_left(tmp_path / "bag")


@pytest.mark.parametrize(
    ("component", "change", "words"),
    [
        ("camera_image", {"image": b"GIF89a"}, "camera side_right at .* is not a JPEG"),
        ("camera_image", {"key.camera_name": 9}, r"camera 9 is unknown, expected one of 1 \(front\)"),
        ("lidar", {"range_image_return1.shape": (16, 91, 4)}, "5760 values in shape .16, 91, 4."),
        ("lidar_calibration", {"beam_inclination.values": [0.0, 0.1]}, "20 rows, the calibration 2 beam inclinations"),
        ("camera_calibration", {"intrinsic.f_u": 0.0}, "focal lengths are fx=0.0"),
    ],
)
def test_values_that_cannot_be_are_named(component: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    drive = WaymoDrive(frames=1)
    drive.rows[component][-1] |= change
    with pytest.raises(WaymoError, match=words):
        convert(drive.write(tmp_path), tmp_path / "bag")
    assert nothing_left(tmp_path / "bag")


def test_an_existing_bag_is_replaced_only_by_force(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "bag", lidar=False)
    with pytest.raises(BagError, match="exists already; --force replaces it"):
        convert(folder, tmp_path / "bag", lidar=False)
    waymo_to_bag(ParquetSegment(folder), tmp_path / "bag", force=True)
    with BagReader(tmp_path / "bag") as bag:
        assert "/waymo/lidar/points" in bag.topics


def test_an_interrupted_conversion_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        waymo_to_bag(ParquetSegment(folder), tmp_path / "bag", on_frame=interrupt)
    assert nothing_left(tmp_path / "bag")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "sem_depth_node.cli", "waymo-to-bag", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_command(folder: Path, drive: WaymoDrive, tmp_path: Path) -> None:
    done = command(folder, "--out", tmp_path / "bag", "--camera", "front", "--storage", "sqlite3", "--frames", 1)
    assert done.returncode == 0, done.stderr
    assert "1 frames, 1 images of 1 cameras, 1 clouds" in done.stderr
    assert (tmp_path / "bag" / "bag.db3").is_file()

    refused = command(folder, "--out", tmp_path / "bag")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "exists already" in refused.stderr

    record = waymo_frames.write_tfrecord(tmp_path / "segment.tfrecord", waymo_frames.frames(drive))
    done = command(record, "--out", tmp_path / "bag", "--force", "--no-lidar")
    assert "2 frames, 10 images of 5 cameras, 0 clouds" in done.stderr

    wrong = command(tmp_path / "bag", "--out", tmp_path / "other")
    assert wrong.returncode == 2
    assert "not the Waymo Open Dataset" in wrong.stderr


def test_an_unknown_camera_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WaymoError, match="no camera rear, expected some of front, front_left"):
        waymo_to_bag(ParquetSegment(folder), tmp_path / "bag", cameras=["rear"])


def test_both_versions_of_the_data_set_give_the_same_bag(drive: WaymoDrive, bag_path: Path, tmp_path: Path) -> None:
    record = waymo_frames.write_tfrecord(tmp_path / "segment.tfrecord", waymo_frames.frames(drive))
    segment = TfrecordSegment(record)
    assert segment.name == SEGMENT
    waymo_to_bag(segment, tmp_path / "bag")
    with BagReader(tmp_path / "bag") as found, BagReader(bag_path) as expected:
        assert sorted(found.messages()) == sorted(expected.messages())


def test_a_tfrecord_whose_range_images_were_taken_out(drive: WaymoDrive, tmp_path: Path) -> None:
    """As in the releases for camera tasks."""
    messages = waymo_frames.frames(drive)
    for frame in messages:
        for laser in frame.lasers:
            laser.Clear()
    record = waymo_frames.write_tfrecord(tmp_path / "segment.tfrecord", messages)
    report = waymo_to_bag(TfrecordSegment(record), tmp_path / "bag")
    assert (report.frames, report.clouds) == (2, 0)
    assert report.missing == {"scan of laser top": 2, "scan of laser front": 2}


def test_tfrecords_that_are_damaged_or_something_else(drive: WaymoDrive, tmp_path: Path) -> None:
    path = tmp_path / "segment.tfrecord"
    messages = waymo_frames.frames(drive)
    whole = waymo_frames.write_tfrecord(path, messages).read_bytes()

    def expect(data: bytes, words: str) -> None:
        path.write_bytes(data)
        with pytest.raises(WaymoError, match=words):
            waymo_to_bag(TfrecordSegment(path), tmp_path / "bag")
        assert nothing_left(tmp_path / "bag")

    expect(b"", "empty file")
    expect(whole[: len(whole) * 3 // 4], f"cut short at byte {len(whole) * 3 // 4}, or not a TFRecord")
    expect(b"not a record at all, but long enough", "not a TFRecord")
    expect(waymo_frames.write_tfrecord(path, [waymo_frames.MESSAGES["Transform"]()]).read_bytes(), "no Frame")
    messages[1].lasers[0].ri_return1.range_image_compressed = b"garbage"
    expect(waymo_frames.write_tfrecord(path, messages).read_bytes(), "record 2 is damaged")
    messages[1].context.name = "another"
    expect(waymo_frames.write_tfrecord(path, messages).read_bytes(), "record 2 is of another segment: another")
    with pytest.raises(WaymoError, match="cannot be read: No such file"):
        TfrecordSegment(tmp_path / "nowhere.tfrecord")

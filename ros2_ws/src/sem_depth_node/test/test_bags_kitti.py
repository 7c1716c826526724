"""KITTI folders become bags with the right geometry, times and topics; bad folders are refused and leave nothing."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import kitti_samples as kitti
import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.interfaces import QosDurability
from ruamel.yaml import YAML

from sem_depth_node.bags.evaluate import LidarDepth
from sem_depth_node.bags.kitti.convert import kitti_to_bag, open_kitti
from sem_depth_node.bags.kitti.files import KittiError
from sem_depth_node.bags.reader import BagError, BagReader
from sem_depth_node.bags.transforms import transforms_of
from sem_depth_node.bags.writer import Storage
from sem_depth_node.camera_info import camera_from_info
from sem_depth_node.cloud_decoding import xyz
from sem_depth_node.rectification import rectification_from_info
from sem_depth_node.stamps import nanoseconds

COLOR_LEFT, COLOR_RIGHT = "/kitti/camera_color_left", "/kitti/camera_color_right"
LIDAR = "/kitti/velo/pointcloud"


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synced")
    kitti_to_bag(open_kitti(kitti.write_raw_drive(root / "kitti")), root / "bag")
    return root / "bag"


def test_topics_times_and_pixels(synced: Path) -> None:
    with BagReader(synced) as bag:
        counts = {topic.name: topic.count for topic in bag.topics.values()}
        assert counts == {
            f"{COLOR_LEFT}/image_rect": 3,
            f"{COLOR_LEFT}/camera_info": 3,
            f"{COLOR_RIGHT}/image_rect": 3,
            f"{COLOR_RIGHT}/camera_info": 3,
            LIDAR: 2,
            "/kitti/oxts/imu": 3,
            "/kitti/oxts/gps/fix": 3,
            "/kitti/oxts/odometry": 3,
            "/tf": 3,
            "/tf_static": 1,
        }
        times = [message.time for message in bag.messages()]
        assert times == sorted(times)
        images = [bag.decode(m) for m in bag.messages([f"{COLOR_RIGHT}/image_rect"])]
        assert [nanoseconds(image.header.stamp) for image in images] == [kitti.stamp(frame) for frame in range(3)]
        assert images[2].encoding == "bgr8"
        size = (kitti.WIDTH, kitti.HEIGHT)
        np.testing.assert_array_equal(images[2].data.reshape(*size[::-1], 3), kitti.picture(size, 3, 2))
        scans = [bag.decode(m) for m in bag.messages([LIDAR])]
        assert [nanoseconds(scan.header.stamp) for scan in scans] == [kitti.stamp(0), kitti.stamp(2)]
        assert [field.name for field in scans[0].fields] == ["x", "y", "z", "intensity"]
        assert scans[0].data.tobytes() == kitti.points().tobytes()
        assert [qos.durability for qos in bag.topics["/tf_static"].qos] == [QosDurability.TRANSIENT_LOCAL]
        frames = [(t.header.frame_id, t.child_frame_id) for t in bag.first("/tf_static").transforms]
        assert frames == [
            ("base_link", "imu_link"),
            ("imu_link", "velo_link"),
            ("velo_link", "camera_color_left_optical"),
            ("velo_link", "camera_color_right_optical"),
        ]
        assert images[0].header.frame_id == "camera_color_right_optical"
        assert scans[0].header.frame_id == "velo_link"


@pytest.mark.parametrize(("number", "folder"), [(2, COLOR_LEFT), (3, COLOR_RIGHT)])
def test_rectified_points_land_where_kitti_says(number: int, folder: str, synced: Path) -> None:
    with BagReader(synced) as bag:
        info = bag.first(f"{folder}/camera_info")
        scan = bag.first(LIDAR)
        matrix = transforms_of(bag).lookup(info.header.frame_id, scan.header.frame_id, kitti.stamp(0))
        points = xyz(scan) @ matrix[:3, :3].T + matrix[:3, 3]
        camera = camera_from_info(info)
        pixels, depths = kitti.RIG.rectified_pixels(number, kitti.points()[:, :3].astype(float))
        np.testing.assert_allclose(camera.project(points), pixels, atol=1e-6)
        np.testing.assert_allclose(points[:, 2], depths, rtol=1e-9)
        assert (camera.width, camera.height, camera.distortion) == (kitti.WIDTH, kitti.HEIGHT, ())
        np.testing.assert_array_equal(info.r, np.eye(3).ravel())


def test_stereo_baseline_is_in_the_projection_of_the_right_camera(synced: Path) -> None:
    with BagReader(synced) as bag:
        left = bag.first(f"{COLOR_LEFT}/camera_info").p.reshape(3, 4)
        right = bag.first(f"{COLOR_RIGHT}/camera_info").p.reshape(3, 4)
    np.testing.assert_array_equal(left[:, 3], 0)
    baseline = (kitti.RIG.R_rect(3) @ kitti.RIG.T[3] - kitti.RIG.R_rect(2) @ kitti.RIG.T[2])[0]
    assert baseline < -0.5
    np.testing.assert_allclose(right[:, 3], [kitti.RIG.K_rect[0, 0] * baseline, 0, 0], rtol=1e-9)
    np.testing.assert_allclose(right[:, :3], kitti.RIG.K_rect)


def test_gps_and_imu(synced: Path) -> None:
    with BagReader(synced) as bag:
        fix, imu = bag.first("/kitti/oxts/gps/fix"), bag.first("/kitti/oxts/imu")
        odometry = [bag.decode(m) for m in bag.messages(["/kitti/oxts/odometry"])]
        tree = transforms_of(bag)
        imu_in_map = tree.lookup("map", "imu_link", kitti.stamp(2))
    assert (fix.latitude, fix.longitude, fix.altitude) == (49.0, 8.4, 114.0)
    # dataformat.txt: ax, ay, az are the 12th to 14th number, wx, wy, wz the 18th to 20th.
    assert (imu.linear_acceleration.x, imu.linear_acceleration.y, imu.linear_acceleration.z) == (0, 1, 2)
    assert (imu.angular_velocity.x, imu.angular_velocity.y, imu.angular_velocity.z) == (6, 7, 8)
    first, last = odometry[0], odometry[-1]
    assert (first.pose.pose.position.x, first.pose.pose.position.y, first.pose.pose.position.z) == (0, 0, 0)
    # 2e-5 degrees north and east on the sphere KITTI takes for the earth.
    per_degree = 6378137.0 * np.pi / 180
    position = last.pose.pose.position
    assert position.y == pytest.approx(2e-5 * per_degree, rel=1e-4)
    assert position.x == pytest.approx(2e-5 * per_degree * np.cos(np.radians(49)), rel=1e-4)
    np.testing.assert_allclose(imu_in_map[:3, 3], [position.x, position.y, position.z], atol=1e-9)
    speed = last.twist.twist.linear
    assert np.hypot(speed.x, speed.y) == pytest.approx(np.hypot(7.0, 7.1), rel=1e-2)
    assert speed.x > 9.9  # forward


def test_partial_downloads_are_reported(tmp_path: Path) -> None:
    sequence = open_kitti(kitti.write_raw_drive(tmp_path / "kitti", frames=4))
    (sequence.folder / "image_03" / "data" / "0000000001.png").unlink()
    (sequence.folder / "image_03" / "data" / "0000000002.png").unlink()
    report = kitti_to_bag(sequence, tmp_path / "bag")
    assert report.notes == [
        "image_02: 4 files for 6 timestamps",
        "image_03: 2 files for 6 timestamps, missing between them: 1 to 2",
        "velodyne_points: 3 files for 5 timestamps",
        "oxts: 4 files for 6 timestamps",
    ]
    with BagReader(tmp_path / "bag") as bag:
        right = [nanoseconds(bag.decode(m).header.stamp) for m in bag.messages([f"{COLOR_RIGHT}/image_rect"])]
    assert right == [kitti.stamp(0), kitti.stamp(3)]


def test_compressed_images_are_the_files_themselves(tmp_path: Path) -> None:
    drive = kitti.write_raw_drive(tmp_path / "kitti")
    kitti_to_bag(open_kitti(drive), tmp_path / "bag", cameras=[2], compressed=True, storage="sqlite3")
    with BagReader(tmp_path / "bag") as bag:
        assert not any(COLOR_RIGHT in name for name in bag.topics)
        images = [bag.decode(m) for m in bag.messages([f"{COLOR_LEFT}/image_rect/compressed"])]
    assert images[1].format == "png"
    assert images[1].data.tobytes() == (drive / "image_02" / "data" / "0000000001.png").read_bytes()


def test_unsynced_images_keep_their_distortion(tmp_path: Path) -> None:
    kitti_to_bag(open_kitti(kitti.write_raw_drive(tmp_path / "kitti", synced=False)), tmp_path / "bag")
    rig, lidar = kitti.RIG, kitti.points()[:, :3].astype(float)
    with BagReader(tmp_path / "bag") as bag:
        info = bag.first(f"{COLOR_LEFT}/camera_info")
        matrix = transforms_of(bag).lookup(info.header.frame_id, "velo_link", kitti.stamp(0))
    assert info.distortion_model == "plumb_bob"
    assert (info.width, info.height) == (kitti.RAW_WIDTH, kitti.RAW_HEIGHT)
    camera = lidar @ matrix[:3, :3].T + matrix[:3, 3]
    K, D, R, P = info.k.reshape(3, 3), info.d, info.r.reshape(3, 3), info.p.reshape(3, 4)
    raw = cv2.projectPoints(camera @ R, np.zeros(3), np.zeros(3), K, D)[0].reshape(-1, 2)
    np.testing.assert_allclose(raw, rig.raw_pixels(2, lidar), atol=1e-6)
    # R and P rectify to where KITTI's rectified images have the same points.
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    rectified = cv2.undistortPointsIter(raw.reshape(-1, 1, 2), K, D, R, P, criteria).reshape(-1, 2)
    np.testing.assert_allclose(rectified, rig.rectified_pixels(2, lidar)[0], atol=1e-4)
    # The optical frame is the rectified camera's, which rectified images and their depth are in.
    rectification = rectification_from_info(info, info.width, info.height)
    assert rectification is not None
    np.testing.assert_allclose(rectification.camera.project(camera), rig.rectified_pixels(2, lidar)[0], atol=1e-6)
    np.testing.assert_allclose(camera[:, 2], rig.rectified_pixels(2, lidar)[1], rtol=1e-9)


@pytest.mark.parametrize("layout", ["odometry", "object"])
def test_benchmark_layouts(layout: str, tmp_path: Path) -> None:
    write = kitti.write_odometry_sequence if layout == "odometry" else kitti.write_object_frames
    report = kitti_to_bag(open_kitti(write(tmp_path / "kitti")), tmp_path / "bag")
    assert any("stamps" in note for note in report.notes)
    with BagReader(tmp_path / "bag") as bag:
        tree = transforms_of(bag)
        infos = [bag.decode(m) for m in bag.messages([f"{COLOR_LEFT}/camera_info"])]
        assert len(infos) == (3 if layout == "odometry" else 2)
        for info in infos:
            time = nanoseconds(info.header.stamp)
            assert time >= 1_000_000_000_000_000_000
            matrix = tree.lookup(info.header.frame_id, "velo_link", time)
            lidar = kitti.points()[:, :3].astype(float)
            pixels = camera_from_info(info).project(lidar @ matrix[:3, :3].T + matrix[:3, 3])
            np.testing.assert_allclose(pixels, kitti.RIG.rectified_pixels(2, lidar)[0], atol=1e-6)
        if layout == "odometry":
            # poses/07.txt is of camera 0, one metre ahead each frame; the map's x is ahead.
            optical = tree.lookup("map", infos[0].header.frame_id, nanoseconds(infos[2].header.stamp))
            before = tree.lookup("map", infos[0].header.frame_id, nanoseconds(infos[1].header.stamp))
            np.testing.assert_allclose((optical - before)[:3, 3], [1, 0, 0], atol=1e-9)


def test_metadata_is_what_rosbag2_reads(synced: Path) -> None:
    metadata = YAML(typ="safe").load((synced / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["version"] == 9
    assert metadata["storage_identifier"] == "mcap"
    assert metadata["relative_file_paths"] == ["bag.mcap"]
    topics = {
        entry["topic_metadata"]["name"]: entry["topic_metadata"] for entry in metadata["topics_with_message_count"]
    }
    for topic in topics.values():
        assert topic["serialization_format"] == "cdr"
        assert topic["type_description_hash"].startswith("RIHS01_")
    # sensor_msgs/msg/Image of Jazzy, as `ros2 topic info --verbose` prints it.
    image = "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47"
    assert topics[f"{COLOR_LEFT}/image_rect"]["type_description_hash"] == image
    with (synced / "bag.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert summary is not None
        assert {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}
        assert {channel.message_encoding for channel in summary.channels.values()} == {"cdr"}
        assert sum(1 for _ in reader.iter_messages()) == metadata["message_count"]


def test_folders_that_are_not_kitti(tmp_path: Path) -> None:
    with pytest.raises(KittiError, match="no such folder"):
        open_kitti(tmp_path / "nowhere")
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(KittiError, match=r"not KITTI: expected a raw drive .*found holiday.jpg"):
        open_kitti(tmp_path)


def test_day_with_one_drive_or_several(tmp_path: Path) -> None:
    drive = kitti.write_raw_drive(tmp_path)
    assert open_kitti(drive.parent).folder == drive
    kitti.write_raw_drive(tmp_path, synced=False)
    with pytest.raises(KittiError, match=r"2 drives \(.*_extract, .*_sync\); name one"):
        open_kitti(drive.parent)


def test_missing_calibration(tmp_path: Path) -> None:
    drive = kitti.write_raw_drive(tmp_path)
    (drive.parent / "calib_velo_to_cam.txt").unlink()
    with pytest.raises(KittiError, match=r"calib_velo_to_cam\.txt: missing"):
        open_kitti(drive)


def test_calibration_of_another_day(tmp_path: Path) -> None:
    drive = kitti.write_raw_drive(tmp_path)
    other = tmp_path / "2011_09_26"
    other.mkdir()
    kitti.write_calibration(other)
    with pytest.raises(KittiError, match="is of 2011_09_26, the drive of 2011_10_03"):
        open_kitti(drive, other)


def test_camera_that_was_not_downloaded(tmp_path: Path) -> None:
    sequence = open_kitti(kitti.write_raw_drive(tmp_path))
    with pytest.raises(KittiError, match="no images of camera 0, only of 2, 3"):
        kitti_to_bag(sequence, tmp_path / "bag", cameras=[0])
    assert not (tmp_path / "bag").exists()


def _zeros(key: str) -> Callable[[bytes], bytes]:
    """Makes all numbers of a line of a calibration file zeros."""

    def spoil(data: bytes) -> bytes:
        line = re.search(rf"^{key}: .*$".encode(), data, re.M)
        assert line is not None
        return data.replace(line[0], key.encode() + b":" + b" 0" * len(line[0].split()[1:]))

    return spoil


def _as_jpeg(data: bytes) -> bytes:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return bytes(cv2.imencode(".jpg", picture)[1])


@pytest.mark.parametrize(
    ("file", "spoil", "words"),
    [
        ("image_02/data/0000000002.png", lambda data: b"spoiled", "neither a PNG nor a JPEG|not an image"),
        ("image_02/data/0000000002.png", lambda data: data[:-20], "cut short|not an image"),
        ("image_02/data/0000000002.png", lambda data: _as_jpeg(data)[:-100], "cut short"),
        ("velodyne_points/data/0000000002.bin", lambda data: b"spoiled", "7 bytes, expected 16 for each point"),
        ("velodyne_points/data/0000000002.bin", lambda data: data[:-1], "expected 16 for each point"),
        ("velodyne_points/data/0000000002.bin", lambda data: b"", "0 bytes"),
        ("oxts/data/0000000002.txt", lambda data: b"", "empty, expected lines of 30 numbers"),
        ("oxts/data/0000000002.txt", lambda data: b"1 2 3", "line 1: 3 numbers, expected 30"),
        ("oxts/data/0000000002.txt", lambda data: b"north" + data, "line 1: could not convert"),
        (
            "image_02/timestamps.txt",
            lambda data: b"2011-13-45 25:00:00.0\n",
            "line 1: '2011-13-45 25:00:00.0' is not a",
        ),
        ("image_02/timestamps.txt", lambda data: b"2011-10-03 12:55:34.1234567890\n", "line 1: .* is not a time"),
        ("image_02/timestamps.txt", lambda data: b"1960-10-03 12:55:34.1\n", "line 1: .* is not a time"),
        ("oxts/data/0000000002.txt", lambda data: b"nan " + data.split(b" ", 1)[1], "line 1: .* not finite"),
        (
            "../calib_cam_to_cam.txt",
            lambda data: data.replace(b"S_rect_02: ", b"S_rect_02: inf "),
            "S_rect_02 .* not fin",
        ),
        ("../calib_cam_to_cam.txt", _zeros("P_rect_02"), "of no camera"),
        ("../calib_velo_to_cam.txt", _zeros("R"), "R is no rotation"),
        ("image_02/timestamps.txt", lambda data: b"\xff\xfe", "not a text file"),
        ("../calib_cam_to_cam.txt", lambda data: b"\xff\xfe", "not a text file"),
        ("../calib_cam_to_cam.txt", lambda data: data.replace(b"P_rect_02", b"P"), "no P_rect_02 of 3x4 numbers"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_file_is_named_and_leaves_no_half_bag(
    compressed: bool, file: str, spoil: Callable[[bytes], bytes], words: str, tmp_path: Path
) -> None:
    drive = kitti.write_raw_drive(tmp_path / "kitti")
    (drive / file).write_bytes(spoil((drive / file).read_bytes()))
    with pytest.raises(KittiError, match=rf"{Path(file).name}.*({words})"):
        kitti_to_bag(open_kitti(drive), tmp_path / "out" / "bag", compressed=compressed)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "words"), [("times.txt", "line 2: 3 numbers"), ("../../poses/07.txt", "line 2: 3 numbers")]
)
def test_damaged_odometry_files_are_named(file: str, words: str, tmp_path: Path) -> None:
    sequence = kitti.write_odometry_sequence(tmp_path / "kitti")
    lines = (sequence / file).read_text().splitlines()
    (sequence / file).write_text("\n".join([lines[0], "1 2 3", *lines[2:]]))
    with pytest.raises(KittiError, match=rf"{Path(file).name}, {words}"):
        kitti_to_bag(open_kitti(sequence), tmp_path / "bag")


def test_killed_conversion_is_swept_away_by_the_next_and_one_at_work_is_not(tmp_path: Path) -> None:
    drive = kitti.write_raw_drive(tmp_path / "kitti")
    out = tmp_path / "out"
    begins = (
        "import os, pathlib, sys\n"
        "from sem_depth_node.bags.writer import BagWriter\n"
        "with BagWriter(pathlib.Path(sys.argv[1])):\n"
        "    print('begun', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", begins, out / "bag"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as at_work:
        assert at_work.stdout is not None
        assert at_work.stdout.readline() == "begun\n"
        (staging,) = out.iterdir()
        kitti_to_bag(open_kitti(drive), out / "bag")
        assert staging.is_dir()
        at_work.communicate("now")
    assert staging.is_dir()
    kitti_to_bag(open_kitti(drive), out / "bag", force=True)
    assert [path.name for path in out.iterdir()] == ["bag"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_the_disk_refuses_is_said_and_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    sequence = open_kitti(kitti.write_raw_drive(tmp_path / "kitti"))
    (tmp_path / "file").touch()
    with pytest.raises(BagError, match=r"file/bag: cannot be written: .*file"):
        kitti_to_bag(sequence, tmp_path / "file" / "bag", storage=storage)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # files grow no larger: as a full disk
    try:
        with pytest.raises(BagError, match="bag: cannot be written: "):
            kitti_to_bag(sequence, tmp_path / "out" / "bag", storage=storage)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "out").iterdir()) == []


def test_existing_bag_is_replaced_only_by_force(tmp_path: Path) -> None:
    sequence = open_kitti(kitti.write_raw_drive(tmp_path / "kitti"))
    kitti_to_bag(sequence, tmp_path / "bag", cameras=[2])
    with pytest.raises(BagError, match="exists already; --force"):
        kitti_to_bag(sequence, tmp_path / "bag")
    kitti_to_bag(sequence, tmp_path / "bag", cameras=[3], force=True)
    with BagReader(tmp_path / "bag") as bag:
        assert f"{COLOR_LEFT}/image_rect" not in bag.topics
    (tmp_path / "photos").mkdir()
    with pytest.raises(BagError, match="not a rosbag2 folder"):
        kitti_to_bag(sequence, tmp_path / "photos", force=True)


def test_ground_truth_of_real_frames_is_the_published_depth(shared_dir: Path, tmp_path: Path) -> None:
    """The depth images were made from the same scans, so they are equal up to the steps of 1/256 m of their files."""
    drive = shared_dir / "data" / "kitti_raw" / "2011_09_26" / "2011_09_26_drive_0009_sync"
    kitti_to_bag(open_kitti(drive), tmp_path / "bag", compressed=True)
    depth_images = sorted((shared_dir / "data" / "driving" / "kitti_raw_0926_0009").glob("*l.png"))
    compared = 0
    with BagReader(tmp_path / "bag") as bag:
        truth = LidarDepth(bag, LIDAR)
        infos = [bag.decode(m) for m in bag.messages([f"{COLOR_LEFT}/camera_info"])]
        for file in depth_images:
            if (frame := int(file.stem.rstrip("l"))) >= len(infos):
                continue
            published = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            info = infos[frame]
            made = truth.at(nanoseconds(info.header.stamp), info.header.frame_id, camera_from_info(info))
            assert made is not None
            both = (made > 0) & (published > 0)
            assert np.abs(made * 256 - published)[both].max() <= 0.5 + 1e-3  # half a step of the file format
            # A point on the border of two pixels may go to either: tf holds rotations as unit quaternions, and the
            # calibration file's matrices, of seven digits, are not quite rotations.
            for row, column in np.argwhere((made > 0) & (published == 0)):
                around = published[row - 1 : row + 2, column - 1 : column + 2]
                assert np.abs(around - made[row, column] * 256).min() <= 1
            assert both.sum() >= (published > 0).sum() - 2
            compared += 1
    assert compared == 3

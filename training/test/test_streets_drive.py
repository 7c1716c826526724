"""The demo drive that ships: topics, rates, stamps, calibration, and that camera, LiDAR and poses belong together."""

from __future__ import annotations

import sys
from collections import defaultdict

import cv2
import numpy as np
import pytest
import typer
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from sem_depth_training.streets.drive import CAMERA_FRAME, FIRST_STAMP_NS, LIDAR_FRAME, DrivePlan
from sem_depth_training.streets.drive_bag import DriveBag, DriveFrame, quaternion
from sem_depth_training.streets.lidar import QUANTUM, measured
from sem_depth_training.streets.render import render_drive

TYPES = {
    "/camera/image/compressed": "sensor_msgs/msg/CompressedImage",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/lidar/points": "sensor_msgs/msg/PointCloud2",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}
LARGEST = 12_000_000  # bytes in the repository


@pytest.fixture(scope="module")
def demo_folder(repository):
    return repository / "ros2_ws" / "src" / "sem_depth_node" / "demo"


@pytest.fixture(scope="module")
def messages(demo_folder):
    """Per topic: list of (bag stamp, message)."""
    found = defaultdict(list)
    with AnyReader([demo_folder], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        assert {connection.topic: connection.msgtype for connection in reader.connections} == TYPES
        for connection, stamp, raw in reader.messages():
            found[connection.topic].append((stamp, reader.deserialize(raw, connection.msgtype)))
    return found


def header_stamp(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def points_of(cloud):
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        ("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 12, 7),
    ]  # fmt: skip
    assert cloud.row_step == cloud.point_step * cloud.width == len(cloud.data)
    return cloud.data.view("<f4").reshape(-1, 4)


def matrix(transform):
    x, y, z, w = (getattr(transform.rotation, key) for key in "xyzw")
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = [getattr(transform.translation, key) for key in "xyz"]
    return pose


def test_size_and_licence(demo_folder):
    assert sum(path.stat().st_size for path in demo_folder.rglob("*") if path.is_file()) <= LARGEST
    text = (demo_folder / "LICENCE.md").read_text()
    assert "CC0" in text
    assert "sweethome3d-furniture" in text
    assert "--seed 0" in text


def test_rates_and_stamps(messages):
    plan = DrivePlan()
    assert len(messages["/tf_static"]) == 1
    for topic in ("/camera/image/compressed", "/camera/camera_info", "/lidar/points", "/tf"):
        stamps = [stamp for stamp, _ in messages[topic]]
        assert len(stamps) == plan.frames
        assert stamps[0] == FIRST_STAMP_NS
        np.testing.assert_array_equal(np.diff(stamps), 100_000_000)
        for stamp, message in messages[topic]:
            assert header_stamp(message.transforms[0] if topic == "/tf" else message) == stamp
    assert 6.0 <= plan.frames / plan.rate <= 8.0


def test_calibration(messages):
    image = messages["/camera/image/compressed"][0][1]
    assert image.format == "jpeg"
    pixels = cv2.imdecode(np.asarray(image.data), cv2.IMREAD_COLOR)
    plan = DrivePlan()
    pairs = zip(messages["/camera/camera_info"], messages["/camera/image/compressed"], strict=True)
    for (_, info), (_, picture) in pairs:
        assert picture.header.frame_id == info.header.frame_id == CAMERA_FRAME
        assert (info.height, info.width) == pixels.shape[:2]
        k = info.k.reshape(3, 3)
        np.testing.assert_array_equal(k, [[plan.focal, 0, plan.cx], [0, plan.focal, plan.cy], [0, 0, 1]])
        np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3], k)
        np.testing.assert_array_equal(info.r, np.eye(3).ravel())
        assert info.distortion_model == "plumb_bob"
        assert not info.d.any()
    assert {cloud.header.frame_id for _, cloud in messages["/lidar/points"]} == {LIDAR_FRAME}


def camera_points(messages, frame):
    """LiDAR points of a frame in the frame of its camera, (n, 3)."""
    fixed = {t.child_frame_id: matrix(t.transform) for t in messages["/tf_static"][0][1].transforms}
    points = points_of(messages["/lidar/points"][frame][1])[:, :3].astype(np.float64)
    camera_from_lidar = np.linalg.inv(fixed[CAMERA_FRAME]) @ fixed[LIDAR_FRAME]
    return points @ camera_from_lidar[:3, :3].T + camera_from_lidar[:3, 3]


def project(points, k):
    pixels = points @ k.T
    return pixels[:, :2] / pixels[:, 2:]


def picture(messages, frame):
    return cv2.imdecode(np.asarray(messages["/camera/image/compressed"][frame][1].data), cv2.IMREAD_COLOR)


def test_lidar_sees_the_road_below_the_car(messages):
    for frame in (0, 30, 59):
        points = points_of(messages["/lidar/points"][frame][1])
        assert len(points) > 8000
        assert ((points[:, 3] >= 0) & (points[:, 3] <= 1)).all()
        near = points[(np.abs(points[:, 1]) < 1.2) & (points[:, 0] < 10)]
        assert len(near) > 300
        assert np.median(near[:, 2]) == pytest.approx(-1.73, abs=0.03)


def colour_change(messages, frame, ahead, *, focal_scale=1.0, still=False):
    """Median colour difference of LiDAR points in a frame and, moved by the poses in the bag, `ahead` frames later."""
    k = messages["/camera/camera_info"][frame][1].k.reshape(3, 3).copy()
    k[0, 0] *= focal_scale
    k[1, 1] *= focal_scale
    fixed = {t.child_frame_id: matrix(t.transform) for t in messages["/tf_static"][0][1].transforms}
    poses = [
        matrix(messages["/tf"][i][1].transforms[0].transform) @ fixed[CAMERA_FRAME] for i in (frame, frame + ahead)
    ]
    motion = np.eye(4) if still else np.linalg.inv(poses[1]) @ poses[0]
    before = camera_points(messages, frame)
    after = before @ motion[:3, :3].T + motion[:3, 3]
    images = [cv2.GaussianBlur(picture(messages, i), (0, 0), 1.0).astype(np.float32) for i in (frame, frame + ahead)]
    height, width = images[0].shape[:2]
    # The road has little to compare; walls, cars and signs above it have.
    usable = (before[:, 2] > 3) & (after[:, 2] > 3) & (before[:, 1] < 0.8)
    pixels = [np.round(project(points[usable], k)).astype(int) for points in (before, after)]
    inside = np.logical_and.reduce([((p >= 0) & (p < [width, height])).all(1) for p in pixels])
    colours = [image[p[inside, 1], p[inside, 0]] for image, p in zip(images, pixels, strict=True)]
    assert inside.sum() > 500
    return float(np.median(np.abs(colours[0] - colours[1]).sum(1)))


def test_points_keep_their_colour_along_the_drive(messages):
    """A wrong pose, a wrong extrinsic or a wrong focal length moves points to pixels of other things.

    Taken over the whole drive: a passing bus does move, so in single moments most points may be on it.
    """

    def change(**wrong):
        return np.mean([colour_change(messages, frame, ahead=6, **wrong) for frame in range(0, 54, 6)])

    right = change()
    assert right < 0.5 * change(still=True)
    assert right < 0.85 * change(focal_scale=1.08)
    assert right < 0.85 * change(focal_scale=0.92)


def test_a_bag_is_written_the_same_every_time(tmp_path):
    plan = DrivePlan(frames=2)
    layout = plan.layout()
    rng = np.random.default_rng(0)
    frames = [
        DriveFrame(
            rng.integers(0, 255, (plan.height, plan.width, 3), dtype=np.uint8), rng.random((50, 4), dtype=np.float32)
        )
        for _ in range(2)
    ]
    contents = []
    for attempt in ("a", "b"):
        with DriveBag(tmp_path / attempt / "drive", plan, layout) as bag:
            for index, frame in enumerate(frames):
                bag.add(index, frame)
        contents.append([path.read_bytes() for path in sorted((tmp_path / attempt / "drive").iterdir())])
    assert contents[0] == contents[1]


STAND_IN = """#!{python}
import json, sys
if sys.argv[1] == "-c":
    sys.exit(0)
import numpy as np
options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
assert sys.argv[3] == "drive"
for number in options["--numbers"].split(","):
    image = np.full((320, 960, 3), int(number), np.uint8)
    np.savez(f"{{options['--out']}}/{{int(number):04d}}.npz", image=image, points=np.ones((9, 4), np.float32))
    print(json.dumps({{"done": int(number)}}), flush=True)
"""


def test_render_drive_gathers_what_the_workers_leave(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "complete").touch()
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o755)
    render_drive(out=tmp_path / "drive", workers=2, seed=0, cache=tmp_path, python=stand_in)
    greys = []
    with AnyReader([tmp_path / "drive"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        images = [c for c in reader.connections if c.topic == "/camera/image/compressed"]
        for _, _, raw in reader.messages(images):
            data = np.asarray(reader.deserialize(raw, images[0].msgtype).data)
            greys.append(int(np.median(cv2.imdecode(data, cv2.IMREAD_COLOR))))
    assert greys == list(range(DrivePlan().frames))
    with pytest.raises(typer.Exit):  # never over an existing folder
        render_drive(out=tmp_path / "drive", workers=1, seed=0, cache=tmp_path, python=stand_in)


def test_quaternion_turns_as_its_matrix():
    rng = np.random.default_rng(1)
    for _ in range(20):
        orthogonal, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        rotation = orthogonal * np.sign(np.linalg.det(orthogonal))
        x, y, z, w = quaternion(rotation)

        class Message:
            class rotation:  # noqa: N801
                pass

            class translation:  # noqa: N801
                x = y = z = 0.0

        Message.rotation.x, Message.rotation.y, Message.rotation.z, Message.rotation.w = x, y, z, w
        np.testing.assert_allclose(matrix(Message)[:3, :3], rotation, atol=1e-9)


def test_lidar_measurement():
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((4000, 3))
    points = direction / np.linalg.norm(direction, axis=1, keepdims=True) * rng.uniform(0.2, 150, (4000, 1))
    cloud = measured(points, np.full(4000, 0.5), rng)
    distance = np.linalg.norm(cloud[:, :3], axis=1)
    assert 1000 < len(cloud) < 3900
    assert distance.max() < 100.1
    assert distance.min() > 0.9
    np.testing.assert_array_equal(cloud[:, :3] / QUANTUM, np.round(cloud[:, :3] / QUANTUM))

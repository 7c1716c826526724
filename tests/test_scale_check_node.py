"""With a LiDAR beside it, the node says how far its scale is off, and makes it good only where asked to."""

from __future__ import annotations

import array
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from numpy.typing import NDArray
from rclpy.publisher import Publisher
from running_node import Bench, RunningNode, bench, free_domain, wait_for
from scenes import CAMERA, FRAME, HEIGHT, RIGHT, SECOND, WIDTH, header, image_message, info_message, metric_depth, plane
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Float32

from sem_depth_node.bundle import ModelBundle
from sem_depth_node.scale_check import MIN_FRAMES

# Of images at 10 Hz, never the same again: the node keeps scans from one test to the next.
STAMPS = itertools.count(1_600_000_000 * SECOND, SECOND // 10)
LIDAR = "/lidar/points"
# The right half of the picture, whose depth is in the middle of the bundle's range.
DEPTH = metric_depth(RIGHT[0])


@pytest.fixture(scope="module")
def domain() -> int:
    return free_domain()


@pytest.fixture(scope="module")
def node(domain: int, tiny_bundle: ModelBundle) -> Iterator[RunningNode]:
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime", "scale_check_lidar": LIDAR}
    with RunningNode(domain, {**parameters, "scale_check_period": 0.0}) as running:
        running.said("active")
        yield running


@pytest.fixture
def robot(domain: int, node: RunningNode) -> Iterator[Bench]:
    with bench(domain) as opened:
        opened.camera()
        opened.listen("depth/image")
        opened.listen("/depth/scale_check", Float32)
        for topic in ("/depth/image", "/depth/scale_check"):
            wait_for(lambda topic=topic: opened.ros.count_publishers(topic), f"publisher of {topic}")
        yield opened
        assert opened.set(scale_check_apply=False).successful
        assert opened.transition(Transition.TRANSITION_DEACTIVATE)
        assert opened.transition(Transition.TRANSITION_ACTIVATE)  # and so forgets what it measured


def wall(depth: float) -> NDArray[np.float32]:
    """Points (N, 3), in the camera's optical frame, that fill the right half of its picture."""
    columns, rows = np.meshgrid(np.arange(WIDTH // 2 + 20, WIDTH, 3), np.arange(0, HEIGHT, 3))
    rays = np.stack(((columns - CAMERA.cx) / CAMERA.fx, (rows - CAMERA.cy) / CAMERA.fy, np.ones(columns.shape)), -1)
    return (depth * rays.reshape(-1, 3)).astype(np.float32)


def scan(stamp: int, points: NDArray[np.float32], frame_id: str = FRAME) -> PointCloud2:
    """A PointCloud2 of x, y, z."""
    cloud = PointCloud2(header=header(stamp), height=1, width=len(points), point_step=12, row_step=12 * len(points))
    cloud.header.frame_id = frame_id
    cloud.fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate("xyz")
    ]
    cloud.data = array.array("B", points.tobytes())
    return cloud


def lidar_of(robot: Bench) -> Publisher:
    """What publishes scans, once the node listens to it."""
    lidar = robot.ros.create_publisher(PointCloud2, LIDAR, 10)
    wait_for(lambda: robot.subscribed_as(LIDAR) and lidar.get_subscription_count() == 1, "subscription to the LiDAR")
    return lidar


def show(robot: Bench, lidar: Publisher, points: NDArray[np.float32], frame_id: str = FRAME) -> None:
    """Show a frame with a scan 20 ms after it, and wait for its depth."""
    stamp = next(STAMPS)
    lidar.publish(scan(stamp + SECOND // 50, points, frame_id))
    robot.show(image_message(stamp), info_message(stamp))
    robot.output("depth/image", stamp)


def drive(robot: Bench, points: NDArray[np.float32], further: int = 0, frame_id: str = FRAME) -> None:
    """Show frames with scans until the node tells a scale, and `further` ones.

    How many that takes is not known: the first scans after a subscription may get lost, as on a robot.
    """
    lidar = lidar_of(robot)

    def told() -> bool:
        show(robot, lidar, points, frame_id)
        return bool(robot.received["/depth/scale_check"])

    wait_for(told, "a scale")
    assert len(robot.received["depth/image"]) >= MIN_FRAMES
    for _ in range(further):
        show(robot, lidar, points, frame_id)


def test_a_wrong_scale_is_told_and_not_applied(robot: Bench) -> None:
    drive(robot, wall(1.25 * DEPTH), further=3)
    status, values = robot.diagnosis("scale", lambda status, values: values["factor"] != "unknown")
    assert robot.received["/depth/scale_check"][-1].data == pytest.approx(1.25, rel=0.01)
    assert status.level == status.WARN
    assert "calibration" in status.message
    assert float(values["factor"]) == pytest.approx(1.25, rel=0.01)
    assert values["applied"] == "no"
    for image in robot.received["depth/image"]:
        assert plane(image)[HEIGHT // 2, -20] == pytest.approx(DEPTH, rel=1e-5)


def test_a_right_scale_is_no_cause_for_alarm(robot: Bench) -> None:
    drive(robot, wall(1.05 * DEPTH))
    status, values = robot.diagnosis("scale", lambda status, values: values["factor"] != "unknown")
    assert status.level == status.OK
    assert float(values["factor"]) == pytest.approx(1.05, rel=0.01)


def test_where_asked_to_the_node_applies_it(robot: Bench) -> None:
    assert robot.set(scale_check_apply=True).successful
    drive(robot, wall(1.25 * DEPTH), further=3)
    depths = [float(plane(image)[HEIGHT // 2, -20]) for image in robot.received["depth/image"]]
    assert depths[0] == pytest.approx(DEPTH, rel=1e-5)
    assert depths[-1] == pytest.approx(1.25 * DEPTH, rel=0.01)
    # What is published is the network's error, not what is left of it.
    assert robot.received["/depth/scale_check"][-1].data == pytest.approx(1.25, rel=0.01)
    status, _ = robot.diagnosis("scale", lambda status, values: values["applied"] == "yes")
    assert status.level == status.WARN


def test_a_scale_that_is_absurd_is_not_applied(robot: Bench) -> None:
    assert robot.set(scale_check_apply=True).successful
    drive(robot, wall(2.2 * DEPTH), further=3)
    status, values = robot.diagnosis("scale", lambda status, values: values["factor"] != "unknown")
    assert status.level == status.ERROR
    assert values["applied"] == "no"
    assert plane(robot.received["depth/image"][-1])[HEIGHT // 2, -20] == pytest.approx(DEPTH, rel=1e-5)


def test_scans_that_come_after_the_depth_of_their_images_count(robot: Bench) -> None:
    lidar = lidar_of(robot)
    previous: list[PointCloud2] = []

    def told() -> bool:
        stamp = next(STAMPS)
        robot.show(image_message(stamp), info_message(stamp))
        robot.output("depth/image", stamp)
        for late in previous:  # of the frame before, after the depth of this one
            lidar.publish(late)
        previous[:] = [scan(stamp + SECOND // 50, wall(1.25 * DEPTH))]
        return bool(robot.received["/depth/scale_check"])

    wait_for(told, "a scale")
    assert robot.received["/depth/scale_check"][-1].data == pytest.approx(1.25, rel=0.01)


def test_what_stands_in_the_way_is_named(node: RunningNode, robot: Bench) -> None:
    lidar = lidar_of(robot)

    def said() -> bool:
        show(robot, lidar, wall(DEPTH), frame_id="velodyne")
        return any("no_transform" in line and "'velodyne'" in line and FRAME in line for line in node.log)

    wait_for(said, "a word in the log")  # which comes when nothing could be compared for a while
    status, _ = robot.diagnosis("scale", lambda status, values: "velodyne" in status.message)
    assert status.level == status.WARN
    assert not robot.received["/depth/scale_check"]


def test_scans_of_a_lidar_elsewhere_go_through_the_transforms(robot: Bench) -> None:
    tf2_msgs = pytest.importorskip("tf2_msgs.msg", reason="needs the message package tf2_msgs, which has no wheel")
    from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
    from rclpy.qos import DurabilityPolicy, QoSProfile

    # The LiDAR is x ahead, y left, z up, and 0.3 m behind the camera and 0.1 m above it, on a mast that swayed: the
    # mast's frame is static below the camera, the LiDAR's moves in it.
    mast = TransformStamped(
        header=header(0),
        child_frame_id="mast",
        transform=Transform(translation=Vector3(y=-0.1, z=-0.3), rotation=Quaternion(x=0.5, y=-0.5, z=0.5, w=0.5)),
    )
    now = next(STAMPS)
    sway = [
        TransformStamped(
            header=header(now + seconds * SECOND),
            child_frame_id="velodyne",
            transform=Transform(translation=Vector3(x=ahead), rotation=Quaternion(w=1.0)),
        )
        for seconds, ahead in ((-2, 5.0), (-1, 0.0), (9, 0.0))
    ]
    for transform in sway:
        transform.header.frame_id = "mast"
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = robot.ros.create_publisher(tf2_msgs.TFMessage, "/tf_static", latched)
    moving = robot.ros.create_publisher(tf2_msgs.TFMessage, "/tf", 10)
    static.publish(tf2_msgs.TFMessage(transforms=[mast]))
    wait_for(moving.get_subscription_count, "subscription to /tf")
    moving.publish(tf2_msgs.TFMessage(transforms=sway))
    # By hand: ahead of the LiDAR is the camera's z, left is -x, up is -y; by now the LiDAR is where the mast is.
    x, y, z = wall(1.25 * DEPTH).T
    points = np.stack((z + 0.3, -x, -(y + 0.1)), axis=1)
    drive(robot, points, frame_id="velodyne")
    assert robot.received["/depth/scale_check"][-1].data == pytest.approx(1.25, rel=0.01)


def test_without_a_lidar_nothing_is_checked(tiny_bundle: ModelBundle) -> None:
    domain = free_domain()
    with RunningNode(domain, {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime"}) as node:
        node.said("active")
        with bench(domain) as robot:
            robot.diagnosis("state", lambda status, values: status.message == "active")
            wait_for(lambda: robot.ros.count_publishers("/depth/image"), "publisher of /depth/image")
            assert not robot.ros.count_publishers("/depth/scale_check")
            assert not robot.ros.count_subscribers("/tf")

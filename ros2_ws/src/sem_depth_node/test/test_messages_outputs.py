"""Messages that go out: their memory, millimetres, and the camera_info of the depth image."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy and the message packages of ROS 2, which are not installed")

import rclpy
from builtin_interfaces.msg import Time
from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from sem_depth_node.camera import CameraModel
from sem_depth_node.ros.messages import CloudBuffer, ImageBuffer, depth_camera_info, fill_millimetres


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=93)
    node = rclpy.create_node("outputs", context=context)
    yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def received(node: Node, kind: type, send: Callable[[Publisher], None]) -> Any:
    """What a subscriber gets of what `send` publishes."""
    came: list[Any] = []
    node.create_subscription(kind, "sent", came.append, 5)
    publisher = node.create_publisher(kind, "sent", 5)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    while not publisher.get_subscription_count():
        executor.spin_once(timeout_sec=0.1)
    send(publisher)
    for _ in range(50):
        executor.spin_once(timeout_sec=0.1)
        if came:
            break
    executor.shutdown()
    return came[0]


STAMP = Time(sec=-3, nanosec=4_000_000_000)


@pytest.mark.parametrize("frame_id", ["", "camera", "a_camera_of_another_length"])
@pytest.mark.parametrize(
    ("encoding", "dtype", "channels"), [("32FC1", np.float32, 1), ("16UC1", np.uint16, 1), ("bgr8", np.uint8, 3)]
)
def test_what_is_written_into_the_pixels_arrives(
    node: Node, frame_id: str, encoding: str, dtype: type, channels: int
) -> None:
    buffer = ImageBuffer(frame_id, 3, 5, encoding, dtype, channels)
    values = np.arange(15 * channels).reshape(buffer.pixels.shape).astype(dtype)
    if dtype is np.float32:
        values[1, 2:4] = np.nan, np.inf
    buffer.pixels[:] = values
    image = received(node, Image, lambda publisher: buffer.message.publish(publisher, STAMP))
    assert (image.header.frame_id, image.header.stamp) == (frame_id, STAMP)
    step = 5 * channels * np.dtype(dtype).itemsize
    assert (image.height, image.width, image.encoding, image.step, image.is_bigendian) == (3, 5, encoding, step, 0)
    np.testing.assert_array_equal(np.frombuffer(image.data, dtype).reshape(values.shape), values)


@pytest.mark.parametrize("frame_id", ["", "camera"])
def test_the_cloud_is_organised_and_sixteen_bytes_a_point(node: Node, frame_id: str) -> None:
    buffer = CloudBuffer(frame_id, 2, 3)
    buffer.points[:] = np.arange(24).reshape(2, 3, 4)
    buffer.points[0, 1] = np.nan
    cloud = received(node, PointCloud2, lambda publisher: buffer.message.publish(publisher, STAMP))
    assert (cloud.header.frame_id, cloud.header.stamp) == (frame_id, STAMP)
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step, len(cloud.data)) == (2, 3, 16, 48, 96)
    assert [(field.name, field.offset) for field in cloud.fields] == [("x", 0), ("y", 4), ("z", 8), ("rgb", 12)]
    assert not cloud.is_dense
    np.testing.assert_array_equal(np.frombuffer(cloud.data, np.float32), buffer.points.ravel())


@pytest.mark.parametrize("frame_id", ["", "c", "camera", "camera_optical"])
@pytest.mark.parametrize(("height", "width"), [(1, 3), (31, 77), (375, 1242)])
def test_data_lies_where_the_serialisation_has_it(frame_id: str, height: int, width: int) -> None:
    for _ in range(3):  # padding is whatever memory held before
        image, cloud = ImageBuffer(frame_id, height, width, "bgr8", np.uint8, 3), CloudBuffer(frame_id, height, width)
        image.pixels[:], cloud.points[:] = 7, 7
        sent = deserialize_message(bytes(image.message.serialized), Image)
        assert bytes(sent.data) == b"\x07" * (3 * height * width)
        sent = deserialize_message(bytes(cloud.message.serialized), PointCloud2)
        np.testing.assert_array_equal(np.frombuffer(sent.data, np.float32), np.full(4 * height * width, 7.0))


def test_a_publisher_that_is_gone_is_refused_as_rclpy_refuses_it(node: Node) -> None:
    buffer = ImageBuffer("camera", 3, 5, "32FC1", np.float32)
    publisher = node.create_publisher(Image, "gone", 5)
    publisher.destroy()
    with pytest.raises(InvalidHandle):
        buffer.message.publish(publisher, STAMP)


def test_a_context_that_is_shut_down_is_named(node: Node) -> None:
    buffer = ImageBuffer("camera", 3, 5, "32FC1", np.float32)
    publisher = node.create_publisher(Image, "late", 5)
    rclpy.shutdown(context=node.context)
    with pytest.raises(RCLError, match=r"late.*context is invalid"):
        buffer.message.publish(publisher, STAMP)


@pytest.mark.parametrize(
    ("metres", "millimetres"),
    [
        (0.0, 0),
        (0.0004, 0),
        (0.0006, 1),
        (12.3456, 12346),
        (65.535, 65535),
        (65.54, 0),
        (80.0, 0),
        (np.inf, 0),
        (np.nan, 0),
    ],
)
def test_millimetres_are_rounded_and_zero_where_they_cannot_be_said(metres: float, millimetres: int) -> None:
    out = np.full((1, 1), 99, np.uint16)
    fill_millimetres(np.full((1, 1), metres, np.float32), out)
    assert out[0, 0] == millimetres


def source() -> CameraInfo:
    info = CameraInfo(width=1242, height=375, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0])
    info.k = [720.0, 0.0, 610.0, 0.0, 721.0, 173.0, 0.0, 0.0, 1.0]
    info.r = [0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [700.0, 0.0, 600.0, -378.0, 0.0, 700.0, 180.0, 2.0, 0.0, 0.0, 1.0, 0.003]
    return info


CAMERA = CameraModel(1242, 375, 720, 721, 610, 173)


def test_the_camera_info_of_an_unchanged_image_is_the_one_that_came() -> None:
    info = depth_camera_info(Header(frame_id="camera"), source(), from_projection=False, camera=CAMERA)
    assert info.header.frame_id == "camera"
    for name in ("width", "height", "distortion_model"):
        assert getattr(info, name) == getattr(source(), name)
    for name in ("k", "d", "r", "p"):
        np.testing.assert_allclose(getattr(info, name), getattr(source(), name), atol=1e-9)


def test_cropping_and_scaling_change_k_and_p_alike() -> None:
    camera = CAMERA.cropped(100, 20, 1000, 300).resized(500, 150)
    info = depth_camera_info(Header(), source(), from_projection=False, camera=camera)
    assert info.k == pytest.approx([360, 0, (510 + 0.5) / 2 - 0.5, 0, 360.5, (153 + 0.5) / 2 - 0.5, 0, 0, 1])
    # A point of the rectified frame: where the source's P puts it, cropped and scaled.
    point = np.array([1.0, -0.5, 9.0, 1.0])
    u, v, w = np.reshape(source().p, (3, 4)) @ point
    expected = ((u / w - 100 + 0.5) / 2 - 0.5, (v / w - 20 + 0.5) / 2 - 0.5)
    u, v, w = np.reshape(info.p, (3, 4)) @ point
    assert (u / w, v / w) == pytest.approx(expected)


def test_where_the_source_has_no_p_it_is_k() -> None:
    info = source()
    info.p = [0.0] * 12
    camera = CAMERA.cropped(100, 20, 1000, 300)
    made = depth_camera_info(Header(), info, from_projection=False, camera=camera)
    np.testing.assert_array_equal(np.reshape(made.p, (3, 4)), np.column_stack((camera.K, np.zeros(3))))


def test_a_k_without_its_last_row_serves_as_it_does_for_depth() -> None:
    info = source()
    info.k[8] = 0.0
    made = depth_camera_info(Header(), info, from_projection=False, camera=CAMERA)
    np.testing.assert_allclose(made.p, source().p, atol=1e-9)


def test_of_a_rectified_camera_k_and_p_are_one_and_distortion_is_gone() -> None:
    camera = CameraModel(1242, 375, 700, 700, 600, 180).resized(621, 187)
    info = depth_camera_info(Header(), source(), from_projection=True, camera=camera)
    assert np.reshape(info.p, (3, 4))[:, :3] == pytest.approx(np.reshape(info.k, (3, 3)))
    assert np.reshape(info.p, (3, 4))[:, 3].tolist() == [0, 0, 0]
    assert info.k == pytest.approx(camera.K.ravel())
    assert list(info.d) == [0.0] * 5
    assert np.reshape(info.r, (3, 3)).tolist() == np.eye(3).tolist()

"""Messages that go out: their memory, millimetres, and the camera_info of the depth image."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy and the message packages of ROS 2, which are not installed")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from sem_depth_node.camera import CameraModel
from sem_depth_node.ros.messages import CloudBuffer, ImageBuffer, depth_camera_info, fill_millimetres


def test_what_is_written_into_the_pixels_is_what_the_message_carries() -> None:
    buffer = ImageBuffer(3, 5, "32FC1", np.float32)
    for value in (1.5, np.nan, np.inf):
        buffer.pixels[1, 2] = value
        sent = deserialize_message(serialize_message(buffer.message), Image)
        assert (sent.height, sent.width, sent.step, len(sent.data)) == (3, 5, 20, 60)
        np.testing.assert_array_equal(np.frombuffer(sent.data, np.float32).reshape(3, 5), buffer.pixels)


def test_the_cloud_is_organised_and_sixteen_bytes_a_point() -> None:
    buffer = CloudBuffer(2, 3)
    buffer.points[1, 2] = (1, 2, 3, 4)
    sent = deserialize_message(serialize_message(buffer.message), PointCloud2)
    assert (sent.height, sent.width, sent.point_step, sent.row_step, len(sent.data)) == (2, 3, 16, 48, 96)
    assert np.frombuffer(sent.data, np.float32)[-4:].tolist() == [1, 2, 3, 4]


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


def test_of_a_rectified_camera_k_and_p_are_one_and_distortion_is_gone() -> None:
    camera = CameraModel(1242, 375, 700, 700, 600, 180).resized(621, 187)
    info = depth_camera_info(Header(), source(), from_projection=True, camera=camera)
    assert np.reshape(info.p, (3, 4))[:, :3] == pytest.approx(np.reshape(info.k, (3, 3)))
    assert np.reshape(info.p, (3, 4))[:, 3].tolist() == [0, 0, 0]
    assert info.k == pytest.approx(camera.K.ravel())
    assert list(info.d) == [0.0] * 5
    assert np.reshape(info.r, (3, 3)).tolist() == np.eye(3).tolist()

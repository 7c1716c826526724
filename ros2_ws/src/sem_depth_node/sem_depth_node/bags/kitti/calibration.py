"""KITTI's calibration as ROS wants it: one camera model and pose per camera."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bags.kitti.files import KittiError
from sem_depth_node.camera import CameraModel

Matrix = NDArray[np.float64]

# The sensor setup figure: the IMU is 0.93 m above the ground, 0.05 m behind the rear axle, 0.32 m left of the middle;
# the wheelbase is 2.71 m. base_link is on the ground in the middle between the axles.
IMU_IN_BASE = np.array([[1.0, 0, 0, -2.71 / 2 - 0.05], [0, 1, 0, 0.32], [0, 0, 1, 0.93], [0, 0, 0, 1]])

# And the LiDAR, for the layouts that do not say where the IMU is.
LIDAR_IN_BASE = np.array([[1.0, 0, 0, 0.76 - 2.71 / 2], [0, 1, 0, 0], [0, 0, 1, 1.73], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Calibration:
    """One camera.

    Attributes:
        camera: of the images.
        rectification: R of camera_info.
        projection: P of camera_info.
        camera_from_lidar: (4, 4), points of the LiDAR's frame to the image's optical frame.
    """

    camera: CameraModel
    rectification: Matrix
    projection: Matrix
    camera_from_lidar: Matrix

    def __post_init__(self) -> None:
        np.linalg.inv(self.camera_from_lidar)  # raises LinAlgError where it is no pose


def rigid(values: Mapping[str, Matrix], file: Path) -> Matrix:
    """The (4, 4) matrix of a calibration file's R and T.

    Raises:
        KittiError: `file` has no such lines, or R is no rotation.
    """
    if "R" not in values or "T" not in values or values["R"].size != 9 or values["T"].size != 3:
        raise KittiError(f"{file}: no R of 3x3 and T of 3 numbers")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = values["R"].reshape(3, 3), values["T"]
    if abs(np.linalg.det(matrix) - 1) > 0.1:
        raise KittiError(f"{file}: R is no rotation, its determinant is {np.linalg.det(matrix):g}")
    return matrix


def inverse(matrix: Matrix) -> Matrix:
    """Of a (4, 4) pose."""
    return np.asarray(np.linalg.inv(matrix))


def rectified(
    projection: Matrix, partner: Matrix, width: int, height: int, rect0_from_lidar: Matrix, file: Path
) -> Calibration:
    """Of a rectified camera. Its frame is camera 0's rectified one moved by K^-1 P[:, 3].

    Args:
        projection: KITTI's P (3, 4) of the camera.
        partner: KITTI's P of the left camera of its pair.
        width, height: of the images.
        rect0_from_lidar: (4, 4), points of the LiDAR's frame to camera 0's rectified frame.
        file: that they are from, for messages.

    Raises:
        KittiError: they are of no camera.
    """
    K = projection[:, :3]
    offset = np.eye(4)
    with naming(file):
        offset[:3, 3] = np.linalg.solve(K, projection[:, 3])
        camera = CameraModel(width, height, K[0, 0].item(), K[1, 1].item(), K[0, 2].item(), K[1, 2].item())
        return Calibration(camera, np.eye(3), projection_of_pair(projection, partner), offset @ rect0_from_lidar)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Within it, matrices and numbers that are of no camera raise KittiError naming the file they are from."""
    try:
        yield
    except (ValueError, np.linalg.LinAlgError) as error:
        raise KittiError(f"{file}: its numbers are of no camera: {error}") from error


def projection_of_pair(projection: Matrix, partner: Matrix) -> Matrix:
    """P as sensor_msgs/CameraInfo wants it: relative to the left camera of the pair, where KITTI's is to camera 0."""
    result = projection.copy()
    offset = np.linalg.solve(projection[:, :3], projection[:, 3]) - np.linalg.solve(partner[:, :3], partner[:, 3])
    result[:, 3] = projection[0, 0] * offset[0], 0.0, 0.0
    return result


def benchmark_calibration(
    values: Mapping[str, Matrix],
    file: Path,
    lidar_key: str,
    rectify_key: str | None,
    number: int,
    width: int,
    height: int,
) -> Calibration:
    """From the files of the odometry and object benchmarks, whose P are those of rectified cameras.

    Args:
        values: of the calibration file.
        file: it, for messages.
        lidar_key: name of the LiDAR's pose in it.
        rectify_key: name of the rectifying rotation; None where the pose has it in it.
        number: of the camera.
        width, height: of its images.

    Raises:
        KittiError: a line is missing.
    """

    def get(key: str, shape: tuple[int, int]) -> Matrix:
        if key not in values or values[key].size != shape[0] * shape[1]:
            raise KittiError(f"{file}: no {key} of {shape[0]}x{shape[1]} numbers")
        return values[key].reshape(shape)

    transform = np.vstack((get(lidar_key, (3, 4)), (0, 0, 0, 1)))
    if rectify_key is not None:
        rectify = np.eye(4)
        rectify[:3, :3] = get(rectify_key, (3, 3))
        transform = rectify @ transform
    return rectified(get(f"P{number}", (3, 4)), get(f"P{number // 2 * 2}", (3, 4)), width, height, transform, file)

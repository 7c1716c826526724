"""Points from range images, as waymo_open_dataset/utils/range_image_utils.py defines them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bags.waymo.segment import Matrix, WaymoLaser, WaymoScan


def world_points(
    scan: WaymoScan, laser: WaymoLaser, world_from_vehicle: Matrix
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Every return of a scan as a point in the world.

    Args:
        scan: range images of one turn.
        laser: its calibration.
        world_from_vehicle: (4, 4), the frame's pose; where pixels have poses of their own, those count.

    Returns:
        points (3, N) in metres, and their intensity and elongation (2, N).

    Raises:
        ValueError: range image, poses and calibration differ in their sizes.
    """
    points, features = [], []
    for image in scan.returns:
        inclinations, azimuths = _angles(laser, *image.shape[:2])
        rows, columns = np.nonzero(image[..., 0] > 0)
        ranges = image[rows, columns, 0].astype(np.float64)
        flat = ranges * np.cos(inclinations)[rows]
        in_laser = np.stack(
            (
                flat * np.cos(azimuths)[columns],
                flat * np.sin(azimuths)[columns],
                ranges * np.sin(inclinations)[rows],
            )
        )
        in_vehicle = transformed(laser.vehicle_from_laser, in_laser)
        if scan.poses is None:
            points.append(transformed(world_from_vehicle, in_vehicle))
        elif scan.poses.shape[:2] == image.shape[:2]:
            poses = scan.poses[rows, columns].T.astype(np.float64)
            points.append(_rotated(poses[:3], in_vehicle) + poses[3:])
        else:
            raise ValueError(f"range image is {image.shape[:2]}, its poses are {scan.poses.shape[:2]}")
        features.append(image[rows, columns, 1:3].T)
    return np.concatenate(points, axis=1), np.concatenate(features, axis=1)


def transformed(matrix: Matrix, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (3, N) taken to another frame by `matrix` (4, 4)."""
    return matrix[:3, :3] @ points + matrix[:3, 3:]


def _angles(laser: WaymoLaser, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inclination of each row and azimuth of each column in the laser's frame, radians.

    Rows go from the highest inclination down. Columns go clockwise from the rear of the vehicle, so the laser's heading
    on the vehicle is taken off.
    """
    if laser.uniform:
        low, high = laser.inclinations
        inclinations = low + (np.arange(height) + 0.5) / height * (high - low)
    elif len(laser.inclinations) == height:
        inclinations = laser.inclinations
    else:
        raise ValueError(f"range image has {height} rows, the calibration {len(laser.inclinations)} beam inclinations")
    heading = np.arctan2(laser.vehicle_from_laser[1, 0], laser.vehicle_from_laser[0, 0])
    return inclinations[::-1], np.pi * (1 - 2 * (np.arange(width) + 0.5) / width) - heading


def _rotated(angles: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each point (3, N) turned by its own roll, then pitch, then yaw (3, N) about the fixed axes x, y, z."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(angles), np.cos(angles)
    x, y, z = points
    y, z = cr * y - sr * z, sr * y + cr * z
    x, z = cp * x + sp * z, cp * z - sp * x
    x, y = cy * x - sy * y, sy * x + cy * y
    return np.stack((x, y, z))

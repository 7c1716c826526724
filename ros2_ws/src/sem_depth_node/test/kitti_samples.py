"""Small folders in KITTI's layouts with a calibration made up here, and KITTI's own formulas for projecting with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

WIDTH, HEIGHT = 124, 37
RAW_WIDTH, RAW_HEIGHT = 139, 51
DRIVE = "2011_10_03_drive_0042"
BEGIN = datetime(2011, 10, 3, 12, 55, 34)
# The nanoseconds of each frame's stamp within its second: digits that a float would lose.
FRACTION = 997_304_401


def rotation(x: float, y: float, z: float) -> Matrix:
    """From a rotation vector."""
    return cv2.Rodrigues(np.array([x, y, z]))[0]


@dataclass
class Rig:
    """Four cameras and a LiDAR. Camera i sees R[i] x + T[i] of a point x in camera 0; rectified, all look along Rn."""

    Rn: Matrix = field(default_factory=lambda: rotation(0.01, -0.02, 0.005))
    R: list[Matrix] = field(default_factory=lambda: [rotation(0.0, 0.001 * i, 0.004 * i) for i in range(4)])
    T: list[Matrix] = field(
        default_factory=lambda: list(np.array([[0, 0, 0], [-0.54, 0.005, -0.01], [0.06, 0, 0.003], [-0.47, 0, 0]]))
    )
    K: Matrix = field(default_factory=lambda: np.array([[96.0, 0, 69.6], [0, 95.7, 22.4], [0, 0, 1]]))
    D: Matrix = field(default_factory=lambda: np.array([-0.37, 0.2, 0.0013, 0.0006, -0.07]))
    K_rect: Matrix = field(default_factory=lambda: np.array([[72.15, 0, 60.9], [0, 72.15, 17.3], [0, 0, 1]]))
    R_lidar: Matrix = field(
        default_factory=lambda: np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]) @ rotation(0.01, 0.015, -0.007)
    )
    T_lidar: Matrix = field(default_factory=lambda: np.array([-0.004, -0.076, -0.27]))
    R_imu: Matrix = field(default_factory=lambda: rotation(0.015, 0.002, -0.001))
    T_imu: Matrix = field(default_factory=lambda: np.array([-0.81, 0.32, -0.8]))

    def R_rect(self, i: int) -> Matrix:
        return self.Rn @ self.R[i].T

    def P_rect(self, i: int) -> Matrix:
        return self.K_rect @ np.column_stack((np.eye(3), self.R_rect(i) @ self.T[i]))

    def rectified_pixels(self, i: int, lidar: Matrix) -> tuple[Matrix, Matrix]:
        """KITTI's formula: P_rect_i R_rect_0 T_velo_to_cam x. Pixels (N, 2) and depths (N,)."""
        camera_0 = lidar @ self.R_lidar.T + self.T_lidar
        homogeneous = np.column_stack((camera_0 @ self.R_rect(0).T, np.ones(len(lidar)))) @ self.P_rect(i).T
        return homogeneous[:, :2] / homogeneous[:, 2:], homogeneous[:, 2]

    def raw_pixels(self, i: int, lidar: Matrix) -> Matrix:
        """Pixels (N, 2) in the image as the camera took it."""
        camera = (lidar @ self.R_lidar.T + self.T_lidar) @ self.R[i].T + self.T[i]
        return cv2.projectPoints(camera, np.zeros(3), np.zeros(3), self.K, self.D)[0].reshape(-1, 2)


RIG = Rig()


def points(count: int = 50) -> NDArray[np.float32]:
    """(N, 4) in the LiDAR's frame, all seen by every camera."""
    random = np.random.default_rng(5)
    distance = random.uniform(5, 40, count)
    sideways, up = random.uniform(-0.3, 0.3, count), random.uniform(-0.08, 0.08, count)
    return np.column_stack((distance, distance * sideways, distance * up, random.random(count))).astype(np.float32)


def write_raw_drive(root: Path, *, synced: bool = True, cameras: tuple[int, ...] = (2, 3), frames: int = 3) -> Path:
    """A raw drive below `root` with its calibration. Two more timestamps than frames, and a scan missing in between."""
    date = root / "2011_10_03"
    drive = date / f"{DRIVE}_{'sync' if synced else 'extract'}"
    size = (WIDTH, HEIGHT) if synced else (RAW_WIDTH, RAW_HEIGHT)
    stamps = [stamp_text(frame) for frame in range(frames + 2)]
    for camera in cameras:
        folder = drive / f"image_{camera:02d}"
        _write_stamps(folder, stamps)
        for frame in range(frames):
            _write_image(folder / "data" / f"{frame:010d}.png", size, camera, frame)
    # Where the scanner lost a turn, KITTI's file has an empty line.
    _write_stamps(drive / "velodyne_points", [text if frame != 1 else "" for frame, text in enumerate(stamps)])
    for frame in range(frames):
        if frame != 1:
            points().tofile(_parent(drive / "velodyne_points" / "data" / f"{frame:010d}.bin"))
    _write_stamps(drive / "oxts", stamps)
    for frame in range(frames):
        # Heading north-east at 10 m/s; 30 numbers as dataformat.txt lists them.
        lat, lon = 49.0 + 1e-5 * frame, 8.4 + 1e-5 * frame
        numbers = [lat, lon, 114.0, 0.02, -0.01, np.pi / 4, 7.0, 7.1, 10, 0, 0.1, *range(14), 4, 10, 5, 5, 5]
        file = _parent(drive / "oxts" / "data" / f"{frame:010d}.txt")
        file.write_text(" ".join(map(str, numbers)) + "\n")
    write_calibration(date)
    return drive


def write_calibration(folder: Path) -> None:
    """The three calibration files of a day."""
    lines = ["calib_time: 09-Jan-2012 13:57:47", "corner_dist: 9.95e-02"]
    for i in range(4):
        values = {
            "S": (RAW_WIDTH, RAW_HEIGHT),
            "K": RIG.K,
            "D": RIG.D,
            "R": RIG.R[i],
            "T": RIG.T[i],
            "S_rect": (WIDTH, HEIGHT),
            "R_rect": RIG.R_rect(i),
            "P_rect": RIG.P_rect(i),
        }
        lines += [_line(f"{name}_{i:02d}", value) for name, value in values.items()]
    (folder / "calib_cam_to_cam.txt").write_text("\n".join(lines) + "\n")
    lidar = ["calib_time: 15-Mar-2012 11:37:16", _line("R", RIG.R_lidar), _line("T", RIG.T_lidar), "delta_f: 0 0"]
    (folder / "calib_velo_to_cam.txt").write_text("\n".join(lidar) + "\n")
    (folder / "calib_imu_to_velo.txt").write_text(f"{_line('R', RIG.R_imu)}\n{_line('T', RIG.T_imu)}\n")


def write_odometry_sequence(root: Path, frames: int = 3) -> Path:
    """sequences/07 with cameras 2 and 3, and poses/07.txt of a car that drives 1 m a frame straight ahead."""
    folder = root / "sequences" / "07"
    for frame in range(frames):
        for camera in (2, 3):
            _write_image(folder / f"image_{camera}" / f"{frame:06d}.png", (WIDTH, HEIGHT), camera, frame)
        points().tofile(_parent(folder / "velodyne" / f"{frame:06d}.bin"))
    (folder / "times.txt").write_text("".join(f"{0.1 * frame:e}\n" for frame in range(frames)))
    transform = np.column_stack((RIG.R_rect(0) @ RIG.R_lidar, RIG.R_rect(0) @ RIG.T_lidar))
    lines = [*(_line(f"P{i}", RIG.P_rect(i)) for i in range(4)), _line("Tr", transform)]
    (folder / "calib.txt").write_text("\n".join(lines) + "\n")
    poses = [f"1 0 0 0 0 1 0 0 0 0 1 {frame}" for frame in range(frames)]
    _parent(root / "poses" / "07.txt").write_text("\n".join(poses) + "\n")
    return folder


def write_object_frames(root: Path, frames: tuple[int, ...] = (0, 7)) -> Path:
    """training/ with camera 2."""
    folder = root / "training"
    for frame in frames:
        _write_image(folder / "image_2" / f"{frame:06d}.png", (WIDTH, HEIGHT), 2, frame)
        points().tofile(_parent(folder / "velodyne" / f"{frame:06d}.bin"))
        lines = [
            *(_line(f"P{i}", RIG.P_rect(i)) for i in range(4)),
            _line("R0_rect", RIG.R_rect(0)),
            _line("Tr_velo_to_cam", np.column_stack((RIG.R_lidar, RIG.T_lidar))),
            _line("Tr_imu_to_velo", np.column_stack((RIG.R_imu, RIG.T_imu))),
        ]
        _parent(folder / "calib" / f"{frame:06d}.txt").write_text("\n".join(lines) + "\n")
    return folder


def stamp_text(frame: int) -> str:
    """As timestamps.txt has it."""
    return f"{BEGIN + timedelta(seconds=frame):%Y-%m-%d %H:%M:%S}.{FRACTION:09d}"


def stamp(frame: int) -> int:
    """The same in nanoseconds since the epoch, UTC."""
    return (int((BEGIN - datetime(1970, 1, 1)).total_seconds()) + frame) * 1_000_000_000 + FRACTION


def picture(size: tuple[int, int], camera: int, frame: int) -> NDArray[np.uint8]:
    """BGR of a camera's frame: one colour."""
    return np.full((size[1], size[0], 3), (camera, frame, 200), np.uint8)


def _write_image(file: Path, size: tuple[int, int], camera: int, frame: int) -> None:
    assert cv2.imwrite(str(_parent(file)), picture(size, camera, frame))


def _write_stamps(folder: Path, lines: list[str]) -> None:
    _parent(folder / "timestamps.txt").write_text("\n".join(lines) + "\n")


def _line(key: str, values: object) -> str:
    return f"{key}: " + " ".join(f"{value:.12e}" for value in np.ravel(np.asarray(values, np.float64)))


def _parent(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file

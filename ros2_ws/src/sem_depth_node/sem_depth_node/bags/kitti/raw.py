"""A drive of KITTI's raw data, synced or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sem_depth_node.bags import messages
from sem_depth_node.bags.kitti.calibration import (
    IMU_IN_BASE,
    Calibration,
    Matrix,
    inverse,
    naming,
    projection_of_pair,
    rectified,
    rigid,
)
from sem_depth_node.bags.kitti.files import (
    IMAGE_SUFFIXES,
    KittiError,
    files_in,
    in_words,
    numbered,
    parse_stamp,
    read_numbers,
    read_scan,
    read_text,
)
from sem_depth_node.bags.kitti.oxts import Oxts
from sem_depth_node.bags.kitti.sequence import (
    BASE,
    CAMERAS,
    IMU,
    LIDAR,
    LIDAR_TOPIC,
    KittiSequence,
    Timed,
    image_messages,
    optical,
)
from sem_depth_node.camera import CameraModel


class RawDrive(KittiSequence):
    """A drive of the raw data, `DATE_drive_NNNN_sync` or `_extract` with DATE's calibration files beside it.

    `_sync` images are rectified. `_extract` images are as they came from the camera: camera_info has K and D, and R and
    P for rectifying. Either way a camera's optical frame is that of its rectified images, as ROS takes depth to be.

    Args:
        folder: of the drive.
        calibration: folder of calib_cam_to_cam.txt, calib_velo_to_cam.txt and calib_imu_to_velo.txt; None for the
            folder the drive is in.

    Raises:
        KittiError: calibration is missing or of another date.
    """

    def __init__(self, folder: Path, calibration: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.synced = not folder.name.endswith("_extract")
        self.cameras = [n for n in CAMERAS if files_in(folder / f"image_{n:02d}" / "data", IMAGE_SUFFIXES)]
        source = calibration or folder.parent
        _check_same_date(folder, source)
        self._cam_to_cam = read_numbers(source / "calib_cam_to_cam.txt")
        self._lidar_to_cam = rigid(read_numbers(source / "calib_velo_to_cam.txt"), source / "calib_velo_to_cam.txt")
        self._imu_to_lidar = rigid(read_numbers(source / "calib_imu_to_velo.txt"), source / "calib_imu_to_velo.txt")
        self._calibration_file = source / "calib_cam_to_cam.txt"

    def calibration(self, number: int) -> Calibration:
        """Of camera `number`."""
        get = self._calibration_value
        rectify = np.eye(4)
        rectify[:3, :3] = get(f"R_rect_{0 if self.synced else number:02d}", (3, 3))
        projection = get(f"P_rect_{number:02d}", (3, 4))
        if self.synced:
            width, height = get(f"S_rect_{number:02d}", (2,))
            partner = get(f"P_rect_{number // 2 * 2:02d}", (3, 4))
            transform = rectify @ self._lidar_to_cam
            return rectified(projection, partner, int(width), int(height), transform, self._calibration_file)
        width, height = get(f"S_{number:02d}", (2,))
        K = get(f"K_{number:02d}", (3, 3))
        distortion = tuple(get(f"D_{number:02d}", (5,)).tolist())
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = get(f"R_{number:02d}", (3, 3)), get(f"T_{number:02d}", (3,))
        partner = get(f"P_rect_{number // 2 * 2:02d}", (3, 4))
        with naming(self._calibration_file):
            camera = CameraModel(
                int(width), int(height), K[0, 0], K[1, 1], K[0, 2], K[1, 2], "plumb_bob", tuple(map(float, distortion))
            )
            return Calibration(
                camera,
                rectify[:3, :3],
                projection_of_pair(projection, partner),
                rectify @ pose @ self._lidar_to_cam,
            )

    def _calibration_value(self, key: str, shape: tuple[int, ...]) -> Matrix:
        if key not in self._cam_to_cam or self._cam_to_cam[key].size != np.prod(shape):
            raise KittiError(f"{self._calibration_file}: no {key} of {'x'.join(map(str, shape))} numbers")
        return self._cam_to_cam[key].reshape(shape)

    def _transforms(self, cameras: Sequence[int]) -> Iterator[Timed]:
        sensors = [*(f"image_{n:02d}" for n in cameras), "velodyne_points", "oxts"]
        begin = min(stamp for name in sensors for stamp in self._begin(name))
        static = [
            messages.transform(begin, BASE, IMU, IMU_IN_BASE),
            messages.transform(begin, IMU, LIDAR, inverse(self._imu_to_lidar)),
            *(
                messages.transform(begin, LIDAR, optical(n), inverse(self.calibration(n).camera_from_lidar))
                for n in cameras
            ),
        ]
        yield Timed(begin, "/tf_static", messages.tf(*static))

    def _images(self, number: int, compressed: bool) -> Iterator[Timed]:
        folder = self.folder / f"image_{number:02d}"
        files = numbered(folder / "data", IMAGE_SUFFIXES)
        kind = "image_rect" if self.synced else "image_raw"
        calibration = self.calibration(number)
        for index, stamp in self._present(folder, files):
            yield from image_messages(files[index], stamp, number, kind, calibration, compressed)

    def _scans(self) -> Iterator[Timed]:
        folder = self.folder / "velodyne_points"
        files = numbered(folder / "data", (".bin", ".txt"))
        for index, stamp in self._present(folder, files):
            cloud = messages.point_cloud(messages.header(stamp, LIDAR), read_scan(files[index]))
            yield Timed(stamp, LIDAR_TOPIC, cloud)

    def _poses(self) -> Iterator[Timed]:
        folder = self.folder / "oxts"
        files = numbered(folder / "data", (".txt",))
        origin: Matrix | None = None
        for index, stamp in self._present(folder, files):
            oxts = Oxts.read(files[index])
            if origin is None:
                origin = oxts.position
            yield from oxts.messages(stamp, origin)

    def _present(self, folder: Path, files: Mapping[int, Path]) -> Iterator[tuple[int, int]]:
        """Frame number and stamp of every frame of a sensor that has both; notes what is missing."""
        if not folder.is_dir():
            self.notes.append(f"no {folder.name}")
            return
        stamps = self._stamps(folder)
        if len(files) < len(stamps):
            note = f"{folder.name}: {len(files)} files for {len(stamps)} timestamps"
            if inside := sorted(set(range(max(files, default=0))) & set(stamps) - set(files)):
                note += f", missing between them: {in_words(inside)}"
            self.notes.append(note)
        if timeless := sorted(set(files) - set(stamps)):
            self.notes.append(f"{folder.name}: left out, as they have no timestamp: {in_words(timeless)}")
        yield from ((index, stamps[index]) for index in sorted(files) if index in stamps)

    def _begin(self, name: str) -> list[int]:
        """The first stamp of a sensor, if it has any."""
        return [min(stamps.values())] if (stamps := self._stamps(self.folder / name)) else []

    def _stamps(self, folder: Path) -> dict[int, int]:
        """Nanoseconds of each frame number. The line of a frame that was not recorded is empty."""
        file = folder / "timestamps.txt"
        if not folder.is_dir():
            return {}
        if not file.is_file():
            raise KittiError(f"{file}: missing, so the times of {folder.name} are not known")
        lines = enumerate(read_text(file).splitlines())
        return {number: parse_stamp(line, file, number + 1) for number, line in lines if line.strip()}


def _check_same_date(drive: Path, calibration: Path) -> None:
    dates = [re.match(r"\d{4}_\d\d_\d\d", name) for name in (drive.name, calibration.name)]
    if dates[0] and dates[1] and dates[0][0] != dates[1][0]:
        raise KittiError(
            f"{drive}: calibration in {calibration} is of {dates[1][0]}, the drive of {dates[0][0]}; "
            "each day was calibrated anew"
        )

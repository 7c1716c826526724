"""The layouts of KITTI's odometry and object benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sem_depth_node.bags import messages
from sem_depth_node.bags.kitti.calibration import (
    LIDAR_IN_BASE,
    Calibration,
    benchmark_calibration,
    inverse,
)
from sem_depth_node.bags.kitti.files import (
    IMAGE_SUFFIXES,
    SECOND,
    KittiError,
    files_in,
    in_words,
    numbered,
    read_numbers,
    read_scan,
    read_table,
    size_of,
)
from sem_depth_node.bags.kitti.sequence import (
    BASE,
    CAMERAS,
    LIDAR,
    LIDAR_TOPIC,
    MAP,
    KittiSequence,
    Timed,
    image_messages,
    optical,
)
from sem_depth_node.transforms import BODY_FROM_OPTICAL

# Odometry and object frames have no date. Their stamps begin here (2001-09-09), as a stamp of zero means "none".
UNDATED = 1_000_000_000 * SECOND


class OdometrySequence(KittiSequence):
    """A sequence of the odometry benchmark: `sequences/NN` with image_0..3, velodyne, calib.txt, times.txt.

    Its images are rectified. Times are seconds since its beginning, so stamps begin at a made-up date. Where
    `poses/NN.txt` exists, the pose of the car goes to /tf.

    Raises:
        KittiError: calib.txt or times.txt is missing or malformed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.cameras = [number for number in CAMERAS if files_in(folder / f"image_{number}", IMAGE_SUFFIXES)]
        self._calib = read_numbers(folder / "calib.txt")
        if not (folder / "times.txt").is_file():
            raise KittiError(f"{folder / 'times.txt'}: missing, so the times of the frames are not known")
        times = read_table(folder / "times.txt", 1)[:, 0]
        if np.min(times) < 0:
            raise KittiError(f"{folder / 'times.txt'}: {np.min(times):g} s, expected times from 0 on")
        self._stamps = [UNDATED + round(seconds * SECOND) for seconds in times.tolist()]
        self.notes.append("the odometry set has no dates: stamps begin at 2001-09-09 01:46:40 UTC")

    def _calibration(self, number: int, width: int, height: int) -> Calibration:
        return benchmark_calibration(self._calib, self.folder / "calib.txt", "Tr", None, number, width, height)

    def _transforms(self, cameras: Sequence[int]) -> Iterator[Timed]:
        begin = self._stamps[0]
        static = [messages.transform(begin, BASE, LIDAR, LIDAR_IN_BASE)]
        for number in cameras:
            width, height = size_of(next(iter(numbered(self.folder / f"image_{number}", IMAGE_SUFFIXES).values())))
            pose = inverse(self._calibration(number, width, height).camera_from_lidar)
            static.append(messages.transform(begin, LIDAR, optical(number), pose))
        yield Timed(begin, "/tf_static", messages.tf(*static))

    def _images(self, number: int, compressed: bool) -> Iterator[Timed]:
        for index, file in self._present(f"image_{number}", IMAGE_SUFFIXES):
            width, height = size_of(file)
            calibration = self._calibration(number, width, height)
            yield from image_messages(file, self._stamps[index], number, "image_rect", calibration, compressed)

    def _scans(self) -> Iterator[Timed]:
        for index, file in self._present("velodyne", (".bin",)):
            stamp = self._stamps[index]
            yield Timed(stamp, LIDAR_TOPIC, messages.point_cloud(messages.header(stamp, LIDAR), read_scan(file)))

    def _poses(self) -> Iterator[Timed]:
        file = self.folder.parent.parent / "poses" / f"{self.folder.name}.txt"
        if not file.is_file():
            self.notes.append(f"no poses ({file})")
            return
        poses = read_table(file, 12)
        width, height = 1, 1  # of no matter to where the camera is
        camera_from_base = self._calibration(0, width, height).camera_from_lidar @ inverse(LIDAR_IN_BASE)
        for stamp, pose in zip(self._stamps, poses.reshape(-1, 3, 4), strict=False):
            camera = np.vstack((pose, (0, 0, 0, 1)))
            base = BODY_FROM_OPTICAL @ camera @ camera_from_base
            yield Timed(stamp, "/tf", messages.tf(messages.transform(stamp, MAP, BASE, base)))

    def _present(self, name: str, suffixes: Sequence[str]) -> Iterator[tuple[int, Path]]:
        files = numbered(self.folder / name, suffixes)
        if len(files) < len(self._stamps):
            self.notes.append(f"{name}: {len(files)} files for {len(self._stamps)} times")
        if beyond := [index for index in files if index >= len(self._stamps)]:
            raise KittiError(f"{files[beyond[0]]}: {self.folder / 'times.txt'} has only {len(self._stamps)} lines")
        yield from sorted(files.items())


class ObjectFrames(KittiSequence):
    """The object detection set, `training` or `testing`, with image_2, velodyne and calib folders.

    Its frames are of different places and days, each with its own calibration, so camera_info changes from frame to
    frame and the transforms are on /tf. Stamps are made up: one frame a second.

    Raises:
        KittiError: there is no calib folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.cameras = [number for number in CAMERAS if files_in(folder / f"image_{number}", IMAGE_SUFFIXES)]
        self._calib_files = numbered(folder / "calib", (".txt",))
        if not self._calib_files:
            raise KittiError(f"{folder / 'calib'}: no calibration files")
        self.notes.append("object frames have no times: stamps are one second apart, from 2001-09-09 01:46:40 UTC")

    def _calibration(self, index: int, number: int, width: int, height: int) -> Calibration:
        if index not in self._calib_files:
            raise KittiError(f"{self.folder / 'calib'}: no calibration of frame {index:06d}")
        file = self._calib_files[index]
        return benchmark_calibration(read_numbers(file), file, "Tr_velo_to_cam", "R0_rect", number, width, height)

    def _transforms(self, cameras: Sequence[int]) -> Iterator[Timed]:
        yield Timed(UNDATED, "/tf_static", messages.tf(messages.transform(UNDATED, BASE, LIDAR, LIDAR_IN_BASE)))
        frames = {index for number in cameras for index in numbered(self.folder / f"image_{number}", IMAGE_SUFFIXES)}
        for index in sorted(frames):
            stamp = UNDATED + index * SECOND
            poses = [
                messages.transform(
                    stamp, LIDAR, optical(n), inverse(self._calibration(index, n, 1, 1).camera_from_lidar)
                )
                for n in cameras
            ]
            yield Timed(stamp, "/tf", messages.tf(*poses))

    def _images(self, number: int, compressed: bool) -> Iterator[Timed]:
        for index, file in sorted(numbered(self.folder / f"image_{number}", IMAGE_SUFFIXES).items()):
            width, height = size_of(file)
            stamp = UNDATED + index * SECOND
            calibration = self._calibration(index, number, width, height)
            yield from image_messages(file, stamp, number, "image_rect", calibration, compressed)

    def _scans(self) -> Iterator[Timed]:
        scans = numbered(self.folder / "velodyne", (".bin",))
        images = {index for n in self.cameras for index in numbered(self.folder / f"image_{n}", IMAGE_SUFFIXES)}
        if missing := sorted(images - set(scans)):
            self.notes.append(f"velodyne: no scan of {in_words(missing)}")
        for index, file in sorted(scans.items()):
            stamp = UNDATED + index * SECOND
            yield Timed(stamp, LIDAR_TOPIC, messages.point_cloud(messages.header(stamp, LIDAR), read_scan(file)))

    def _poses(self) -> Iterator[Timed]:
        return iter(())

"""KITTI on disk: raw drives (synced or not), odometry sequences and the object set, as timed ROS messages.

Everything follows the data set's own documents: Geiger et al., "Vision meets Robotics: The KITTI Dataset" (IJRR 2013),
the readme of the raw development kit, and the sensor setup figure for what no calibration file holds.
"""

from __future__ import annotations

import calendar
import heapq
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.stores import ros2_jazzy as ros

from sem_depth_node.bags import messages
from sem_depth_node.bags.writer import BagWriter, Storage
from sem_depth_node.camera import CameraModel
from sem_depth_node.transforms import quaternion

Matrix = NDArray[np.float64]

MAP, BASE, IMU, LIDAR = "map", "base_link", "imu_link", "velo_link"
CAMERAS = {0: "camera_gray_left", 1: "camera_gray_right", 2: "camera_color_left", 3: "camera_color_right"}
LIDAR_TOPIC = "/kitti/velo/pointcloud"
IMU_TOPIC, FIX_TOPIC, ODOMETRY_TOPIC = "/kitti/oxts/imu", "/kitti/oxts/gps/fix", "/kitti/oxts/odometry"

# The sensor setup figure: the IMU is 0.93 m above the ground, 0.05 m behind the rear axle, 0.32 m left of the middle;
# the wheelbase is 2.71 m. base_link is on the ground in the middle between the axles.
_IMU_IN_BASE = np.array([[1.0, 0, 0, -2.71 / 2 - 0.05], [0, 1, 0, 0.32], [0, 0, 1, 0.93], [0, 0, 0, 1]])
# And the LiDAR, for the layouts that do not say where the IMU is.
_LIDAR_IN_BASE = np.array([[1.0, 0, 0, 0.76 - 2.71 / 2], [0, 1, 0, 0], [0, 0, 1, 1.73], [0, 0, 0, 1]])
# An optical frame (z forward, x right, y down) seen from a body frame (x forward, y left, z up), REP 103.
_BODY_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
_EARTH_RADIUS = 6378137.0

_SECOND = 1_000_000_000
# Odometry and object frames have no date. Their stamps begin here (2001-09-09), as a stamp of zero means "none".
_UNDATED = 1_000_000_000 * _SECOND
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_OXTS_FIELDS = (
    *("lat", "lon", "alt", "roll", "pitch", "yaw", "vn", "ve", "vf", "vl", "vu", "ax", "ay", "az", "af", "al", "au"),
    *("wx", "wy", "wz", "wf", "wl", "wu", "pos_accuracy", "vel_accuracy"),
    *("navstat", "numsats", "posmode", "velmode", "orimode"),
)


class KittiError(Exception):
    """A folder that is not KITTI, or of which something needed is missing; the message names the file."""


class Timed(NamedTuple):
    """A message and when it is recorded, nanoseconds."""

    time: int
    topic: str
    message: Any


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


class KittiSequence(ABC):
    """Frames of one recording.

    Attributes:
        folder: it is in.
        cameras: numbers (0 to 3) of those that have images.
        notes: what is missing or was assumed, in words, once the messages have been read.
    """

    folder: Path
    cameras: list[int]

    def __init__(self) -> None:
        self.notes: list[str] = []

    def messages(self, cameras: Sequence[int] | None = None, *, compressed: bool = False) -> Iterator[Timed]:
        """Everything in order of time; on /tf_static and /tf the transforms.

        Args:
            cameras: numbers of the cameras to take; None for all.
            compressed: CompressedImage with the data set's own files, instead of Image.

        Raises:
            KittiError: a camera has no images, or a file is damaged.
        """
        chosen = self.cameras if cameras is None else list(cameras)
        if missing := [number for number in chosen if number not in self.cameras]:
            raise KittiError(
                f"{self.folder}: no images of camera {', '.join(map(str, missing))}, only of "
                f"{', '.join(map(str, self.cameras)) or 'none'}"
            )
        # heapq.merge keeps the order of its arguments where times are equal: transforms before what needs them.
        images = [self._images(number, compressed) for number in chosen]
        streams = [self._transforms(chosen), *images, self._scans(), self._poses()]
        yield from heapq.merge(*streams, key=lambda timed: timed.time)

    @abstractmethod
    def _transforms(self, cameras: Sequence[int]) -> Iterator[Timed]: ...

    @abstractmethod
    def _images(self, number: int, compressed: bool) -> Iterator[Timed]: ...

    @abstractmethod
    def _scans(self) -> Iterator[Timed]: ...

    @abstractmethod
    def _poses(self) -> Iterator[Timed]: ...


class RawDrive(KittiSequence):
    """A drive of the raw data, `DATE_drive_NNNN_sync` or `_extract` with DATE's calibration files beside it.

    `_sync` images are rectified, and each camera's optical frame is that of its rectified images. `_extract` images are
    as they came from the camera: camera_info has K and D, and R and P for rectifying.

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
        self.cameras = [n for n in CAMERAS if _files(folder / f"image_{n:02d}" / "data", _IMAGE_SUFFIXES)]
        source = calibration or folder.parent
        _check_same_date(folder, source)
        self._cam_to_cam = _read_numbers(source / "calib_cam_to_cam.txt")
        self._lidar_to_cam = _rigid(_read_numbers(source / "calib_velo_to_cam.txt"), source / "calib_velo_to_cam.txt")
        self._imu_to_lidar = _rigid(_read_numbers(source / "calib_imu_to_velo.txt"), source / "calib_imu_to_velo.txt")
        self._calibration_file = source / "calib_cam_to_cam.txt"

    def calibration(self, number: int) -> Calibration:
        """Of camera `number`."""
        get = self._calibration_value
        rectify = np.eye(4)
        rectify[:3, :3] = get("R_rect_00", (3, 3))
        projection = get(f"P_rect_{number:02d}", (3, 4))
        if self.synced:
            width, height = get(f"S_rect_{number:02d}", (2,))
            partner = get(f"P_rect_{number // 2 * 2:02d}", (3, 4))
            return _rectified(projection, partner, int(width), int(height), rectify @ self._lidar_to_cam)
        width, height = get(f"S_{number:02d}", (2,))
        K = get(f"K_{number:02d}", (3, 3))
        distortion = tuple(get(f"D_{number:02d}", (5,)).tolist())
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = get(f"R_{number:02d}", (3, 3)), get(f"T_{number:02d}", (3,))
        camera = CameraModel(
            int(width), int(height), K[0, 0], K[1, 1], K[0, 2], K[1, 2], "plumb_bob", tuple(map(float, distortion))
        )
        partner = get(f"P_rect_{number // 2 * 2:02d}", (3, 4))
        return Calibration(
            camera,
            get(f"R_rect_{number:02d}", (3, 3)),
            _projection_of_pair(projection, partner),
            pose @ self._lidar_to_cam,
        )

    def _calibration_value(self, key: str, shape: tuple[int, ...]) -> Matrix:
        if key not in self._cam_to_cam or self._cam_to_cam[key].size != np.prod(shape):
            raise KittiError(f"{self._calibration_file}: no {key} of {'x'.join(map(str, shape))} numbers")
        return self._cam_to_cam[key].reshape(shape)

    def _transforms(self, cameras: Sequence[int]) -> Iterator[Timed]:
        sensors = [*(f"image_{n:02d}" for n in cameras), "velodyne_points", "oxts"]
        begin = min(stamp for name in sensors for stamp in self._begin(name))
        static = [
            messages.transform(begin, BASE, IMU, _IMU_IN_BASE),
            messages.transform(begin, IMU, LIDAR, _inverse(self._imu_to_lidar)),
            *(
                messages.transform(begin, LIDAR, _optical(n), _inverse(self.calibration(n).camera_from_lidar))
                for n in cameras
            ),
        ]
        yield Timed(begin, "/tf_static", messages.tf(*static))

    def _images(self, number: int, compressed: bool) -> Iterator[Timed]:
        folder = self.folder / f"image_{number:02d}"
        files = _numbered(folder / "data", _IMAGE_SUFFIXES)
        kind = "image_rect" if self.synced else "image_raw"
        calibration = self.calibration(number)
        for index, stamp in self._present(folder, files):
            yield from _image_messages(files[index], stamp, number, kind, calibration, compressed)

    def _scans(self) -> Iterator[Timed]:
        folder = self.folder / "velodyne_points"
        files = _numbered(folder / "data", (".bin", ".txt"))
        for index, stamp in self._present(folder, files):
            cloud = messages.point_cloud(messages.header(stamp, LIDAR), _read_scan(files[index]))
            yield Timed(stamp, LIDAR_TOPIC, cloud)

    def _poses(self) -> Iterator[Timed]:
        folder = self.folder / "oxts"
        files = _numbered(folder / "data", (".txt",))
        origin: Matrix | None = None
        for index, stamp in self._present(folder, files):
            oxts = _Oxts.read(files[index])
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
                note += f", missing between them: {_ranges(inside)}"
            self.notes.append(note)
        if timeless := sorted(set(files) - set(stamps)):
            self.notes.append(f"{folder.name}: left out, as they have no timestamp: {_ranges(timeless)}")
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
        lines = enumerate(file.read_text().splitlines())
        return {number: _stamp(line, file, number + 1) for number, line in lines if line.strip()}


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
        self.cameras = [number for number in CAMERAS if _files(folder / f"image_{number}", _IMAGE_SUFFIXES)]
        self._calib = _read_numbers(folder / "calib.txt")
        if not (folder / "times.txt").is_file():
            raise KittiError(f"{folder / 'times.txt'}: missing, so the times of the frames are not known")
        times = np.loadtxt(folder / "times.txt", ndmin=1)
        self._stamps = [_UNDATED + round(seconds * _SECOND) for seconds in times.tolist()]
        self.notes.append("the odometry set has no dates: stamps begin at 2001-09-09 01:46:40 UTC")

    def _calibration(self, number: int, width: int, height: int) -> Calibration:
        return _benchmark_calibration(self._calib, self.folder / "calib.txt", "Tr", None, number, width, height)

    def _transforms(self, cameras: Sequence[int]) -> Iterator[Timed]:
        begin = self._stamps[0]
        static = [messages.transform(begin, BASE, LIDAR, _LIDAR_IN_BASE)]
        for number in cameras:
            width, height = _size_of(next(iter(_numbered(self.folder / f"image_{number}", _IMAGE_SUFFIXES).values())))
            pose = _inverse(self._calibration(number, width, height).camera_from_lidar)
            static.append(messages.transform(begin, LIDAR, _optical(number), pose))
        yield Timed(begin, "/tf_static", messages.tf(*static))

    def _images(self, number: int, compressed: bool) -> Iterator[Timed]:
        for index, file in self._present(f"image_{number}", _IMAGE_SUFFIXES):
            width, height = _size_of(file)
            calibration = self._calibration(number, width, height)
            yield from _image_messages(file, self._stamps[index], number, "image_rect", calibration, compressed)

    def _scans(self) -> Iterator[Timed]:
        for index, file in self._present("velodyne", (".bin",)):
            stamp = self._stamps[index]
            yield Timed(stamp, LIDAR_TOPIC, messages.point_cloud(messages.header(stamp, LIDAR), _read_scan(file)))

    def _poses(self) -> Iterator[Timed]:
        file = self.folder.parent.parent / "poses" / f"{self.folder.name}.txt"
        if not file.is_file():
            self.notes.append(f"no poses ({file})")
            return
        poses = np.loadtxt(file, ndmin=2)
        if poses.shape[1] != 12:
            raise KittiError(f"{file}: lines of {poses.shape[1]} numbers, expected 12 (a 3x4 matrix)")
        width, height = 1, 1  # of no matter to where the camera is
        camera_from_base = self._calibration(0, width, height).camera_from_lidar @ _inverse(_LIDAR_IN_BASE)
        for stamp, pose in zip(self._stamps, poses.reshape(-1, 3, 4), strict=False):
            camera = np.vstack((pose, (0, 0, 0, 1)))
            base = _BODY_FROM_OPTICAL @ camera @ camera_from_base
            yield Timed(stamp, "/tf", messages.tf(messages.transform(stamp, MAP, BASE, base)))

    def _present(self, name: str, suffixes: Sequence[str]) -> Iterator[tuple[int, Path]]:
        files = _numbered(self.folder / name, suffixes)
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
        self.cameras = [number for number in CAMERAS if _files(folder / f"image_{number}", _IMAGE_SUFFIXES)]
        self._calib_files = _numbered(folder / "calib", (".txt",))
        if not self._calib_files:
            raise KittiError(f"{folder / 'calib'}: no calibration files")
        self.notes.append("object frames have no times: stamps are one second apart, from 2001-09-09 01:46:40 UTC")

    def _calibration(self, index: int, number: int, width: int, height: int) -> Calibration:
        if index not in self._calib_files:
            raise KittiError(f"{self.folder / 'calib'}: no calibration of frame {index:06d}")
        file = self._calib_files[index]
        return _benchmark_calibration(_read_numbers(file), file, "Tr_velo_to_cam", "R0_rect", number, width, height)

    def _transforms(self, cameras: Sequence[int]) -> Iterator[Timed]:
        yield Timed(_UNDATED, "/tf_static", messages.tf(messages.transform(_UNDATED, BASE, LIDAR, _LIDAR_IN_BASE)))
        frames = {index for number in cameras for index in _numbered(self.folder / f"image_{number}", _IMAGE_SUFFIXES)}
        for index in sorted(frames):
            stamp = _UNDATED + index * _SECOND
            poses = [
                messages.transform(
                    stamp, LIDAR, _optical(n), _inverse(self._calibration(index, n, 1, 1).camera_from_lidar)
                )
                for n in cameras
            ]
            yield Timed(stamp, "/tf", messages.tf(*poses))

    def _images(self, number: int, compressed: bool) -> Iterator[Timed]:
        for index, file in sorted(_numbered(self.folder / f"image_{number}", _IMAGE_SUFFIXES).items()):
            width, height = _size_of(file)
            stamp = _UNDATED + index * _SECOND
            calibration = self._calibration(index, number, width, height)
            yield from _image_messages(file, stamp, number, "image_rect", calibration, compressed)

    def _scans(self) -> Iterator[Timed]:
        scans = _numbered(self.folder / "velodyne", (".bin",))
        images = {index for n in self.cameras for index in _numbered(self.folder / f"image_{n}", _IMAGE_SUFFIXES)}
        if missing := sorted(images - set(scans)):
            self.notes.append(f"velodyne: no scan of {_ranges(missing)}")
        for index, file in sorted(scans.items()):
            stamp = _UNDATED + index * _SECOND
            yield Timed(stamp, LIDAR_TOPIC, messages.point_cloud(messages.header(stamp, LIDAR), _read_scan(file)))

    def _poses(self) -> Iterator[Timed]:
        return iter(())


def open_kitti(path: Path, calibration: Path | None = None) -> KittiSequence:
    """The recording at `path`.

    Args:
        path: a raw drive, a date folder with one drive, an odometry sequence, or a part of the object set.
        calibration: folder of a raw drive's calibration files, where they are not beside it.

    Raises:
        KittiError: it is none of these, or incomplete.
    """
    if not path.is_dir():
        raise KittiError(f"{path}: no such folder")
    path = path.resolve()
    drives = sorted(p for p in path.iterdir() if re.search(r"_drive_\d+_(sync|extract)$", p.name) and p.is_dir())
    sequence: KittiSequence
    if any((path / f"image_{number:02d}").is_dir() for number in CAMERAS):
        sequence = RawDrive(path, calibration)
    elif len(drives) == 1:
        sequence = RawDrive(drives[0], calibration)
    elif drives:
        raise KittiError(f"{path}: {len(drives)} drives ({', '.join(d.name for d in drives)}); name one of them")
    elif (path / "times.txt").is_file():
        sequence = OdometrySequence(path)
    elif (path / "calib").is_dir() and any((path / f"image_{number}").is_dir() for number in CAMERAS):
        sequence = ObjectFrames(path)
    else:
        found = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
        raise KittiError(
            f"{path}: not KITTI: expected a raw drive (image_02/data, ...), an odometry sequence (image_2, calib.txt, "
            f"times.txt) or object frames (image_2, calib), found {found}"
        )
    if not sequence.cameras:
        raise KittiError(f"{sequence.folder}: no images in it")
    return sequence


@dataclass
class ConversionReport:
    """Messages written, by topic, and what was missing or assumed."""

    messages: dict[str, int]
    notes: list[str]


def kitti_to_bag(
    sequence: KittiSequence,
    out: Path,
    *,
    cameras: Sequence[int] | None = None,
    storage: Storage = "mcap",
    compressed: bool = False,
    force: bool = False,
    on_message: Callable[[], object] = lambda: None,
) -> ConversionReport:
    """Write a rosbag2 of a KITTI recording; nothing stays of one that is not finished.

    Args:
        sequence: from `open_kitti`.
        out: rosbag2 folder to make.
        cameras: numbers of the cameras to take; None for all.
        storage: format of the bag.
        compressed: images as the data set's own files (CompressedImage) instead of pixels.
        force: replace an existing bag.
        on_message: called after every message.

    Raises:
        KittiError: a file is missing or damaged.
        BagError: `out` exists.
    """
    report = ConversionReport({}, sequence.notes)
    with BagWriter(out, storage, force=force) as writer:
        for timed in sequence.messages(cameras, compressed=compressed):
            writer.write(timed.topic, timed.time, timed.message, latched=timed.topic == "/tf_static")
            report.messages[timed.topic] = report.messages.get(timed.topic, 0) + 1
            on_message()
    return report


@dataclass(frozen=True)
class _Oxts:
    """One line of the GPS/IMU unit."""

    values: Mapping[str, float]

    @classmethod
    def read(cls, file: Path) -> _Oxts:
        numbers = file.read_text().split()
        if len(numbers) != len(_OXTS_FIELDS):
            raise KittiError(f"{file}: {len(numbers)} numbers, expected {len(_OXTS_FIELDS)}")
        return cls(dict(zip(_OXTS_FIELDS, map(float, numbers), strict=True)))

    @property
    def rotation(self) -> Matrix:
        """From the IMU's axes (forward, left, up) to east, north, up."""
        return _euler(self.values["roll"], self.values["pitch"], self.values["yaw"])

    @property
    def position(self) -> Matrix:
        """Latitude and longitude in degrees, altitude in metres."""
        return np.array([self.values["lat"], self.values["lon"], self.values["alt"]])

    def pose(self, origin: Matrix) -> Matrix:
        """(4, 4) of the IMU in an east-north-up frame at `origin`: Mercator, scaled to its latitude, as the development
        kit does it (convertOxtsToPose)."""
        scale = np.cos(np.radians(origin[0]))

        def mercator(position: Matrix) -> Matrix:
            east = scale * _EARTH_RADIUS * np.radians(position[1])
            north = scale * _EARTH_RADIUS * np.log(np.tan(np.pi / 4 + np.radians(position[0]) / 2))
            return np.array([east, north, position[2]])

        pose = np.eye(4)
        pose[:3, :3] = self.rotation
        pose[:3, 3] = mercator(self.position) - mercator(origin)
        return pose

    def messages(self, stamp: int, origin: Matrix) -> Iterator[Timed]:
        """Imu, NavSatFix, Odometry and the car's pose on /tf."""
        v = self.values
        head = messages.header(stamp, IMU)
        pose = self.pose(origin)
        orientation = ros.geometry_msgs__msg__Quaternion(*quaternion(pose[:3, :3]))
        rates = _vector(v["wx"], v["wy"], v["wz"])
        unknown = np.zeros(9)
        yield Timed(
            stamp,
            IMU_TOPIC,
            ros.sensor_msgs__msg__Imu(
                header=head,
                orientation=orientation,
                orientation_covariance=unknown,
                angular_velocity=rates,
                angular_velocity_covariance=unknown,
                linear_acceleration=_vector(v["ax"], v["ay"], v["az"]),
                linear_acceleration_covariance=unknown,
            ),
        )
        yield Timed(
            stamp,
            FIX_TOPIC,
            ros.sensor_msgs__msg__NavSatFix(
                header=head,
                status=ros.sensor_msgs__msg__NavSatStatus(status=0, service=1),  # type: ignore[arg-type]  # a fix, by GPS
                latitude=v["lat"],
                longitude=v["lon"],
                altitude=v["alt"],
                position_covariance=(np.eye(3) * v["pos_accuracy"] ** 2).ravel(),
                position_covariance_type=1,  # approximated
            ),
        )
        velocity = pose[:3, :3].T @ np.array([v["ve"], v["vn"], v["vu"]])
        yield Timed(
            stamp,
            ODOMETRY_TOPIC,
            ros.nav_msgs__msg__Odometry(
                header=messages.header(stamp, MAP),
                child_frame_id=IMU,
                pose=ros.geometry_msgs__msg__PoseWithCovariance(
                    pose=ros.geometry_msgs__msg__Pose(
                        position=ros.geometry_msgs__msg__Point(*pose[:3, 3].tolist()), orientation=orientation
                    ),
                    covariance=np.zeros(36),
                ),
                twist=ros.geometry_msgs__msg__TwistWithCovariance(
                    twist=ros.geometry_msgs__msg__Twist(linear=_vector(*velocity.tolist()), angular=rates),
                    covariance=np.zeros(36),
                ),
            ),
        )
        base = pose @ _inverse(_IMU_IN_BASE)
        yield Timed(stamp, "/tf", messages.tf(messages.transform(stamp, MAP, BASE, base)))


def _vector(x: float, y: float, z: float) -> Any:
    return ros.geometry_msgs__msg__Vector3(x=x, y=y, z=z)


def _euler(roll: float, pitch: float, yaw: float) -> Matrix:
    """Rz(yaw) Ry(pitch) Rx(roll)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def _rectified(projection: Matrix, partner: Matrix, width: int, height: int, rect0_from_lidar: Matrix) -> Calibration:
    """Of a rectified camera. Its frame is camera 0's rectified one moved by K^-1 P[:, 3]."""
    K = projection[:, :3]
    offset = np.eye(4)
    offset[:3, 3] = np.linalg.solve(K, projection[:, 3])
    camera = CameraModel(width, height, K[0, 0].item(), K[1, 1].item(), K[0, 2].item(), K[1, 2].item())
    return Calibration(camera, np.eye(3), _projection_of_pair(projection, partner), offset @ rect0_from_lidar)


def _projection_of_pair(projection: Matrix, partner: Matrix) -> Matrix:
    """P as sensor_msgs/CameraInfo wants it: relative to the left camera of the pair, where KITTI's is to camera 0."""
    result = projection.copy()
    offset = np.linalg.solve(projection[:, :3], projection[:, 3]) - np.linalg.solve(partner[:, :3], partner[:, 3])
    result[:, 3] = projection[0, 0] * offset[0], 0.0, 0.0
    return result


def _benchmark_calibration(
    values: Mapping[str, Matrix],
    file: Path,
    lidar_key: str,
    rectify_key: str | None,
    number: int,
    width: int,
    height: int,
) -> Calibration:
    """From the files of the odometry and object benchmarks, whose P are those of rectified cameras."""

    def get(key: str, shape: tuple[int, int]) -> Matrix:
        if key not in values or values[key].size != shape[0] * shape[1]:
            raise KittiError(f"{file}: no {key} of {shape[0]}x{shape[1]} numbers")
        return values[key].reshape(shape)

    transform = np.vstack((get(lidar_key, (3, 4)), (0, 0, 0, 1)))
    if rectify_key is not None:
        rectify = np.eye(4)
        rectify[:3, :3] = get(rectify_key, (3, 3))
        transform = rectify @ transform
    return _rectified(get(f"P{number}", (3, 4)), get(f"P{number // 2 * 2}", (3, 4)), width, height, transform)


def _image_messages(
    file: Path, stamp: int, number: int, kind: str, calibration: Calibration, compressed: bool
) -> Iterator[Timed]:
    folder = f"/kitti/{CAMERAS[number]}"
    head = messages.header(stamp, _optical(number))
    camera = calibration.camera
    if compressed:
        size, message = _size_of(file), messages.compressed_image(head, file.read_bytes(), _format(file))
        topic = f"{folder}/{kind}/compressed"
    else:
        pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise KittiError(f"{file}: not an image that can be decoded")
        size, topic = (pixels.shape[1], pixels.shape[0]), f"{folder}/{kind}"
        message = messages.image(head, pixels, "mono8" if pixels.ndim == 2 else "bgr8")  # type: ignore[assignment]
    if size != (camera.width, camera.height):
        raise KittiError(
            f"{file}: {size[0]}x{size[1]} pixels, but the calibration is for {camera.width}x{camera.height}"
        )
    info = messages.camera_info(head, camera, calibration.rectification, calibration.projection)
    yield Timed(stamp, f"{folder}/camera_info", info)
    yield Timed(stamp, topic, message)


def _optical(number: int) -> str:
    return f"{CAMERAS[number]}_optical"


def _format(file: Path) -> str:
    return "png" if file.suffix == ".png" else "jpeg"


def _size_of(file: Path) -> tuple[int, int]:
    """Width and height of an image file."""
    data = file.read_bytes()
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise KittiError(f"{file}: not an image that can be decoded")
    return pixels.shape[1], pixels.shape[0]


def _read_scan(file: Path) -> NDArray[np.float32]:
    """(N, 4): x, y, z in metres, reflectance."""
    try:
        numbers = np.loadtxt(file, np.float32).ravel() if file.suffix == ".txt" else np.fromfile(file, np.float32)
    except ValueError as error:
        raise KittiError(f"{file}: not a scan: {error}") from error
    if not numbers.size or numbers.size % 4:
        raise KittiError(f"{file}: {numbers.size} numbers, expected four for each point")
    return numbers.reshape(-1, 4)


def _read_numbers(file: Path) -> dict[str, Matrix]:
    """The lines `key: numbers` of a calibration file; other lines are left out."""
    if not file.is_file():
        raise KittiError(f"{file}: missing, it comes with KITTI's calibration download")
    values = {}
    for line in file.read_text().splitlines():
        key, colon, rest = line.partition(":")
        try:
            numbers = np.array([float(word) for word in rest.split()])
        except ValueError:
            continue  # calib_time has a date
        if colon and numbers.size:
            values[key.strip()] = numbers
    return values


def _rigid(values: Mapping[str, Matrix], file: Path) -> Matrix:
    if "R" not in values or "T" not in values or values["R"].size != 9 or values["T"].size != 3:
        raise KittiError(f"{file}: no R of 3x3 and T of 3 numbers")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = values["R"].reshape(3, 3), values["T"]
    return matrix


def _inverse(matrix: Matrix) -> Matrix:
    return np.asarray(np.linalg.inv(matrix))


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix in suffixes) if folder.is_dir() else []


def _numbered(folder: Path, suffixes: Sequence[str]) -> dict[int, Path]:
    """Files by the number that is their name."""
    return {int(file.stem): file for file in _files(folder, suffixes) if file.stem.isdigit()}


def _stamp(line: str, file: Path, number: int) -> int:
    """Nanoseconds since the epoch of "2011-09-26 13:02:25.594360375". KITTI names no time zone; UTC is taken."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?", line.strip())
    if not match:
        raise KittiError(f"{file}, line {number}: {line!r} is not a time, expected 2011-09-26 13:02:25.594360375")
    seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%d %H:%M:%S"))
    return seconds * _SECOND + int((match[2] or "").ljust(9, "0"))


def _check_same_date(drive: Path, calibration: Path) -> None:
    dates = [re.match(r"\d{4}_\d\d_\d\d", name) for name in (drive.name, calibration.name)]
    if dates[0] and dates[1] and dates[0][0] != dates[1][0]:
        raise KittiError(
            f"{drive}: calibration in {calibration} is of {dates[1][0]}, the drive of {dates[0][0]}; "
            "each day was calibrated anew"
        )


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in words: 3, 7 to 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)

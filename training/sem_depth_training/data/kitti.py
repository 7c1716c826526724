"""KITTI as it is downloaded: raw drives with annotated depth, and the depth selection."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bags.kitti.calibration import Calibration
from sem_depth_node.bags.kitti.files import KittiError, read_scan, size_of
from sem_depth_node.bags.kitti.raw import RawDrive
from sem_depth_node.camera import CameraModel
from sem_depth_node.lidar import remove_hidden, sparse_depth
from sem_depth_training.data.frames import DataError, Frame

LICENCE = "CC BY-NC-SA 3.0 (KITTI)"

_SIDES = {"l": 2, "r": 3}
# `2011_09_26/2011_09_26_drive_0002_sync 0000000069 l`, as Eigen's split is usually handed on.
_BY_SIDE = re.compile(r"(?P<date>[\d_]+)/(?P<drive>\S+_sync)\s+(?P<frame>\d+)\s+(?P<side>[lr])$")
# `2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png` and more, as BTS and its successors have it.
_BY_PATH = re.compile(r"(?P<date>[\d_]+)/(?P<drive>\S+_sync)/image_0(?P<camera>[23])/data/(?P<frame>\d+)\.(png|jpg)\b")
_SELECTED = re.compile(r"(?P<drive>\S+_sync)_image_(?P<frame>\d{10})_image_0(?P<camera>[23])$")


@dataclass(frozen=True)
class ScannedFrame(Frame):
    """A frame whose depth is one scan of the LiDAR, `depth` being the file of its points."""

    camera_from_lidar: NDArray[np.float64] | None = None

    def read_depth(self) -> NDArray[np.float32]:
        """The scan seen by the camera, without what is hidden from it; see `Frame.read_depth`."""
        assert self.camera_from_lidar is not None
        try:
            points = read_scan(self.depth)[:, :3].astype(np.float64)
        except KittiError as error:
            raise DataError(f"{error}; fetch it again") from error
        matrix = self.camera_from_lidar
        return remove_hidden(sparse_depth(points @ matrix[:3, :3].T + matrix[:3, 3], self.camera), self.camera)


def eigen_frames(raw: Path, split_file: Path, depth: Path | None, *, skip: bool = False) -> list[Frame]:
    """The frames of a split file.

    Args:
        raw: folder of KITTI raw, with the folders of dates in it.
        split_file: a line a frame, `DATE/DRIVE_sync FRAME l` (or r), or a path `DATE/DRIVE_sync/image_02/data/N.png`
            first on the line; what follows it is not read.
        depth: folder of the annotated depth, DRIVE_sync/proj_depth/groundtruth/image_02/N.png in it, or that in train/
            and val/. None takes the scans of the raw data.
        skip: leave out frames whose depth is not there; a drive's first and last five were never annotated.

    Raises:
        DataError: the split file is unreadable, a line is neither, calibration is missing or, with `skip`, all depth.
    """
    frames: list[Frame] = []
    calibrations = cache(_calibration)
    for date, drive, number, camera in _lines(split_file):
        folder = raw / date / drive
        calibration = calibrations(folder, camera)
        image = _existing(folder / f"image_{camera:02d}" / "data" / f"{number}.png", ".jpg")
        name = f"{drive}_{camera:02d}"
        if depth is None:
            scan = folder / "velodyne_points" / "data" / f"{number}.bin"
            matrix = calibration.camera_from_lidar
            frame: Frame = ScannedFrame(image, scan, None, calibration.camera, name, LICENCE, camera_from_lidar=matrix)
        else:
            annotated = _annotated(depth, drive, camera, number)
            frame = Frame(image, annotated, None, calibration.camera, name, LICENCE)
        if not (skip and not frame.depth.is_file()):
            frames.append(frame)
    if not frames:
        raise DataError(f"{split_file}: no frame of it has depth in {depth or raw}; is that the right folder?")
    return frames


def selection_frames(folder: Path) -> list[Frame]:
    """The 1000 frames of val_selection_cropped: image/, groundtruth_depth/ and intrinsics/.

    Raises:
        DataError: it has no such images, or intrinsics are missing or unreadable.
    """
    frames = []
    for image in sorted((folder / "image").glob("*.png")):
        if not (match := _SELECTED.match(image.stem)):
            raise DataError(f"{image}: expected a name such as DRIVE_sync_image_0000000005_image_02.png")
        drive, number, camera = match["drive"], match["frame"], match["camera"]
        truth = folder / "groundtruth_depth" / f"{drive}_groundtruth_depth_{number}_image_0{camera}.png"
        intrinsics = folder / "intrinsics" / f"{image.stem}.txt"
        frames.append(Frame(image, truth, None, _selected_camera(image, intrinsics), f"{drive}_0{camera}", LICENCE))
    if not frames:
        raise DataError(f"{folder}: no image/*.png in it; expected KITTI's val_selection_cropped")
    return frames


def _lines(split_file: Path) -> Iterator[tuple[str, str, str, int]]:
    """Date, drive, ten-digit frame and camera of each line."""
    try:
        text = split_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{split_file}: cannot be read ({error}); expected a split file") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _BY_SIDE.match(line.strip()) or _BY_PATH.match(line.strip())
        if not match:
            raise DataError(
                f"{split_file}: line {number}: {line!r}, expected DATE/DRIVE_sync FRAME l (or r), or "
                "DATE/DRIVE_sync/image_02/data/FRAME.png"
            )
        found = match.groupdict()
        camera = int(found["camera"]) if "camera" in found else _SIDES[found["side"]]
        yield found["date"], found["drive"], f"{int(found['frame']):010d}", camera


def _calibration(drive: Path, camera: int) -> Calibration:
    try:
        return RawDrive(drive).calibration(camera)
    except KittiError as error:
        raise DataError(str(error)) from error


def _annotated(root: Path, drive: str, camera: int, number: str) -> Path:
    below = Path(drive) / "proj_depth" / "groundtruth" / f"image_{camera:02d}" / f"{number}.png"
    places = [root / part / below for part in ("train", "val", ".")]
    return next((path for path in places if path.is_file()), places[0])


def _existing(path: Path, suffix: str) -> Path:
    """The path, or that with another suffix where only this is there: KITTI raw is often kept as JPEG."""
    other = path.with_suffix(suffix)
    return other if other.is_file() and not path.is_file() else path


def _selected_camera(image: Path, intrinsics: Path) -> CameraModel:
    try:
        numbers = [float(word) for word in intrinsics.read_text(encoding="utf-8").split()]
        fx, _, cx, _, fy, cy, *_ = numbers
        width, height = size_of(image)
    except (OSError, ValueError, KittiError) as error:
        raise DataError(f"{intrinsics}: expected the nine numbers of K for {image.name} ({error})") from error
    return CameraModel(width, height, fx, fy, cx, cy)

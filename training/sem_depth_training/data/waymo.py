"""Frames of the Waymo Open Dataset 2, rectified once into an index.csv with LiDAR depth."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bags.waymo.parquet import ParquetSegment, segment_names
from sem_depth_node.bags.waymo.range_image import transformed, world_points
from sem_depth_node.bags.waymo.segment import WaymoCamera, WaymoError, WaymoFrame, WaymoImage
from sem_depth_node.camera import CameraModel
from sem_depth_node.lidar import remove_hidden, sparse_depth
from sem_depth_node.transforms import BODY_FROM_OPTICAL
from sem_depth_training.data.frames import DataError, write_depth, write_index, write_picture
from sem_depth_training.whole_file import write_whole

LICENCE = "Waymo Dataset License Agreement for Non-Commercial Use"


def prepare_waymo(folder: Path, output: Path, cameras: Sequence[str], every: int, width: int) -> Path:
    """Write images without distortion and the depth that all lasers saw of them; returns the index.csv, split "train".

    Each segment is done once, with the settings that are noted in `output`/settings.json.

    Args:
        folder: of the data set, with the folders of components in it.
        output: where `SEGMENT/` folders and index.csv go.
        cameras: names of the cameras to take.
        every: take each so-manieth frame.
        width: pixels; larger images are reduced to it.

    Raises:
        DataError: `folder` has no segments, one is damaged, or `output` was prepared with other settings.
    """
    settings = {"cameras": list(cameras), "every": every, "width": width}
    noted = output / "settings.json"
    if noted.is_file() and (found := json.loads(noted.read_text(encoding="utf-8"))) != settings:
        raise DataError(f"{output}: was prepared with {found}, the configuration says {settings}; name another folder")
    names = segment_names(folder)
    if not names:
        raise DataError(f"{folder}: no camera_image/SEGMENT.parquet; expected the Waymo Open Dataset 2")
    write_whole(noted, json.dumps(settings) + "\n")
    rows: list[dict[str, str]] = []
    for name in names:
        part = output / name / "index.csv"
        if not part.is_file():
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_index(part, list(_prepared(ParquetSegment(folder, name), part.parent, cameras, every, width)))
            except WaymoError as error:
                raise DataError(str(error)) from error
        with part.open(newline="", encoding="utf-8") as file:
            rows.extend(csv.DictReader(file))
    if not rows:
        raise DataError(f"{folder}: none of its {len(names)} segments has images of {', '.join(cameras)}")
    write_index(output / "index.csv", rows)
    return output / "index.csv"


def _prepared(
    segment: ParquetSegment, folder: Path, cameras: Sequence[str], every: int, width: int
) -> Iterator[dict[str, Any]]:
    for number, frame in enumerate(segment.frames()):
        if number % every or frame.world_from_vehicle is None:
            continue
        points = _world_points(segment, frame)
        for name in cameras:
            if name not in frame.images or name not in segment.cameras:
                continue
            camera, image = segment.cameras[name], frame.images[name]
            pixels, rectified = _rectified(image, camera.model, width, f"segment {segment.name}, camera {name}")
            depth = remove_hidden(sparse_depth(_in_camera(points, camera, image), rectified), rectified)
            stem = f"{number:03d}_{name}"
            write_picture(folder / f"{stem}.jpg", pixels)
            write_depth(folder / f"{stem}.png", depth)
            yield {
                "split": "train",
                "sequence": f"{segment.name}_{name}",
                "camera": name,
                "image": f"{segment.name}/{stem}.jpg",
                "depth": f"{segment.name}/{stem}.png",
                **{key: getattr(rectified, key) for key in ("fx", "fy", "cx", "cy", "width", "height")},
                "gt_kind": "lidar",
                "licence": LICENCE,
            }


def _world_points(segment: ParquetSegment, frame: WaymoFrame) -> NDArray[np.float64]:
    """Every return of all lasers, (3, N) in the world."""
    assert frame.world_from_vehicle is not None
    clouds = [np.empty((3, 0))]
    for name, scan in frame.scans.items():
        try:
            clouds.append(world_points(scan, segment.lasers[name], frame.world_from_vehicle)[0])
        except (KeyError, ValueError) as error:
            raise WaymoError(f"segment {segment.name}, frame at {frame.time} ns, laser {name}: {error}") from error
    return np.concatenate(clouds, axis=1)


def _in_camera(points: NDArray[np.float64], camera: WaymoCamera, image: WaymoImage) -> NDArray[np.float64]:
    """World points (N, 3) in the camera's optical frame, with the pose that the image was taken at."""
    world_from_optical = image.world_from_vehicle @ camera.vehicle_from_camera @ BODY_FROM_OPTICAL
    return transformed(np.asarray(np.linalg.inv(world_from_optical)), points).T


def _rectified(image: WaymoImage, model: CameraModel, width: int, what: str) -> tuple[NDArray[np.uint8], CameraModel]:
    """BGR without distortion, at most `width` wide, and its camera."""
    pixels = cv2.imdecode(np.frombuffer(image.jpeg, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None or pixels.shape[:2] != (model.height, model.width):
        found = "nothing" if pixels is None else f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise WaymoError(f"{what}: expected a JPEG of {model.width}x{model.height}, decoded {found}; download it again")
    straight = cv2.undistort(pixels, model.K, np.array(model.distortion))
    rectified = CameraModel(model.width, model.height, model.fx, model.fy, model.cx, model.cy)
    if model.width > width:
        height = round(model.height * width / model.width)
        straight = cv2.resize(straight, (width, height), interpolation=cv2.INTER_AREA)
        rectified = rectified.resized(width, height)
    return straight, rectified  # type: ignore[return-value]

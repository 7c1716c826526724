"""Segments of the Waymo Open Dataset 2: one folder a component, in it one parquet file a segment."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sem_depth_node.bags.waymo.segment import (
    CAMERAS,
    LASER_WITH_POSES,
    LASERS,
    Matrix,
    WaymoCamera,
    WaymoError,
    WaymoFrame,
    WaymoImage,
    WaymoLaser,
    WaymoScan,
    camera_model,
)

_SEGMENT, _TIME = "key.segment_context_name", "key.frame_timestamp_micros"
_CAMERA, _LASER = "key.camera_name", "key.laser_name"

# A row of the top laser takes some 5 MB.
_ROWS_AT_ONCE = 8

Row = dict[str, Any]


class ParquetSegment:
    """A segment in the format of version 2.

    Args:
        folder: with the components' folders in it, as "training" of the data set.
        name: of the segment; None for the only one there.
        lidar: whether frames have scans; without, the lidar components need not be there.

    Attributes:
        name, cameras, lasers: see `WaymoSegment`.

    Raises:
        WaymoError: not such a folder, the segment is not there or has to be chosen, a component is missing or
            unreadable.
    """

    def __init__(self, folder: Path, name: str | None = None, *, lidar: bool = True) -> None:
        self.folder = folder
        self.name = name or _only_segment(folder)
        self._lidar = lidar
        self.cameras: Mapping[str, WaymoCamera] = dict(self._read_cameras())
        self.lasers: Mapping[str, WaymoLaser] = dict(self._read_lasers()) if lidar else {}
        self._components = {
            "vehicle_pose": ("VehiclePoseComponent", ["world_from_vehicle.transform"], ()),
            "camera_image": ("CameraImageComponent", ["image", "pose.transform", "pose_timestamp"], (_CAMERA,)),
        }
        if lidar:
            range_image = ["range_image_return1.values", "range_image_return1.shape"]
            second = ["range_image_return2.values", "range_image_return2.shape"]
            self._components["lidar"] = ("LiDARComponent", range_image + second, (_LASER,))
            self._components["lidar_pose"] = ("LiDARPoseComponent", range_image, (_LASER,))
        for component in self._components:
            self._path(component)

    def frames(self) -> Iterator[WaymoFrame]:
        """See `WaymoSegment`."""
        streams = [self._by_time(component, *columns) for component, columns in self._components.items()]
        merged = heapq.merge(*streams, key=lambda entry: entry[0])
        for time, entries in itertools.groupby(merged, key=lambda entry: entry[0]):
            rows: dict[str, list[Row]] = {component: [] for component in (*self._components, "lidar", "lidar_pose")}
            for _, component, row in entries:
                rows[component].append(row)
            yield WaymoFrame(
                time=time * 1000,
                world_from_vehicle=self._vehicle_pose(rows["vehicle_pose"]),
                images=dict(map(self._image, rows["camera_image"])),
                scans=self._scans(rows["lidar"], rows["lidar_pose"]),
            )

    def _read_cameras(self) -> Iterator[tuple[str, WaymoCamera]]:
        intrinsic = [f"intrinsic.{name}" for name in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")]
        columns = [*intrinsic, "extrinsic.transform", "width", "height"]
        for row in self._rows("camera_calibration", "CameraCalibrationComponent", columns, (_CAMERA,)):
            f_u, f_v, c_u, c_v, *distortion = (float(row[name]) for name in intrinsic)
            try:
                model = camera_model(row["width"], row["height"], f_u, f_v, c_u, c_v, distortion)
            except ValueError as error:
                raise WaymoError(f"{self._path('camera_calibration')}: {error}") from error
            yield self._camera_name(row), WaymoCamera(model, self._matrix(row, "extrinsic.transform"))

    def _read_lasers(self) -> Iterator[tuple[str, WaymoLaser]]:
        columns = ["extrinsic.transform", *(f"beam_inclination.{name}" for name in ("min", "max", "values"))]
        for row in self._rows("lidar_calibration", "LiDARCalibrationComponent", columns, (_LASER,)):
            values = row["beam_inclination.values"]
            uniform = values is None or not len(values)
            if uniform:
                values = np.array([row["beam_inclination.min"], row["beam_inclination.max"]])
            laser = WaymoLaser(self._matrix(row, "extrinsic.transform"), values.astype(np.float64), uniform)
            yield self._laser_name(row), laser

    def _vehicle_pose(self, rows: Sequence[Row]) -> Matrix | None:
        return self._matrix(rows[0], "world_from_vehicle.transform") if rows else None

    def _image(self, row: Row) -> tuple[str, WaymoImage]:
        name, jpeg = self._camera_name(row), row["image"]
        if not (isinstance(jpeg, bytes) and jpeg.startswith(b"\xff\xd8")):
            raise WaymoError(f"{self._path('camera_image')}: image of camera {name} at {row['time']} us is not a JPEG")
        # In seconds as float64, which is good to a quarter of a microsecond at today's date.
        time = round(row["pose_timestamp"] * 1e6) * 1000
        return name, WaymoImage(jpeg, time, self._matrix(row, "pose.transform"))

    def _scans(self, lidar: Sequence[Row], poses: Sequence[Row]) -> dict[str, WaymoScan]:
        pose_images = {self._laser_name(row): self._array(row, "range_image_return1", "lidar_pose", 6) for row in poses}
        scans = {}
        for row in lidar:
            name = self._laser_name(row)
            images = (self._array(row, f"range_image_return{number}", "lidar", 4) for number in (1, 2))
            returns = [image for image in images if image is not None]
            poses_are_there = name != LASER_WITH_POSES or pose_images.get(name) is not None
            if returns and poses_are_there:
                scans[name] = WaymoScan(returns, pose_images.get(name))
        return scans

    def _array(self, row: Row, image: str, component: str, channels: int) -> NDArray[np.float32] | None:
        """A range image (H, W, channels), None where the row has none."""
        values, shape = row[f"{image}.values"], row[f"{image}.shape"]
        if values is None or shape is None:
            return None
        if len(shape) != 3 or shape[2] != channels or np.prod(shape) != len(values):
            raise WaymoError(
                f"{self._path(component)}: {image} at {row['time']} us has {len(values)} values in shape "
                f"{shape.tolist()}, expected (rows, columns, {channels})"
            )
        return np.asarray(values, np.float32).reshape(shape)

    def _matrix(self, row: Row, name: str) -> Matrix:
        values = row[name]
        if values is None or len(values) != 16 or not np.isfinite(values).all():
            raise WaymoError(f"{self.folder}: {name} of segment {self.name} is {values}, expected 16 numbers")
        return np.asarray(values, np.float64).reshape(4, 4)

    def _camera_name(self, row: Row) -> str:
        return _sensor_name(row[_CAMERA], CAMERAS, "camera", self.folder)

    def _laser_name(self, row: Row) -> str:
        return _sensor_name(row[_LASER], LASERS, "laser", self.folder)

    def _by_time(
        self, component: str, kind: str, columns: Sequence[str], keys: Sequence[str]
    ) -> Iterator[tuple[int, str, Row]]:
        for row in self._rows(component, kind, columns, (_TIME, *keys)):
            yield row["time"], component, row

    def _rows(self, component: str, kind: str, columns: Sequence[str], keys: Sequence[str]) -> Iterator[Row]:
        """The rows of a component, in order of time where they have one, with the component's prefix taken off."""
        path = self._path(component)
        names = {_SEGMENT: _SEGMENT, **{key: "time" if key == _TIME else key for key in keys}}
        names |= {f"[{kind}].{column}": column for column in columns}
        try:
            with pq.ParquetFile(path, buffer_size=1 << 20) as file:
                if missing := [name for name in names if name not in file.schema_arrow.names]:
                    raise WaymoError(f"{path}: no column {', '.join(missing)}: not a {component} of the data set 2")
                for batch in _batches(file, list(names)):
                    if others := set(batch.column(_SEGMENT).to_pylist()) - {self.name}:
                        raise WaymoError(f"{path}: has rows of another segment: {', '.join(map(str, sorted(others)))}")
                    for index in range(batch.num_rows):
                        yield {short: _value(batch.column(name)[index]) for name, short in names.items()}
        except (pa.ArrowException, OSError) as error:
            raise WaymoError(f"{path}: unreadable parquet: {error}") from error

    def _path(self, component: str) -> Path:
        path = self.folder / component / f"{self.name}.parquet"
        if not path.is_file():
            raise WaymoError(f"{path}: missing; download the component {component} of this segment too")
        return path


def segment_names(folder: Path) -> list[str]:
    """The segments that have images in `folder`."""
    return sorted(path.stem for path in (folder / "camera_image").glob("*.parquet"))


def _only_segment(folder: Path) -> str:
    names = segment_names(folder)
    if not names and any(folder.glob("*.tfrecord")):
        raise WaymoError(
            f"{folder}: has TFRecords, of the Waymo Open Dataset 1: give one of the .tfrecord files itself"
        )
    if not names:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else "no folder"
        raise WaymoError(
            f"{folder}: not the Waymo Open Dataset 2, expected folders named after its components with "
            f"camera_image/SEGMENT.parquet among them; found {found or 'an empty folder'}"
        )
    if len(names) > 1:
        raise WaymoError(f"{folder}: has {len(names)} segments, name one with --segment: {', '.join(names)}")
    return names[0]


def _batches(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if _TIME in columns:
        times = file.read(columns=[_TIME]).column(_TIME).to_numpy()
        if (np.diff(times) < 0).any():
            # Not as published: it has to be sorted in memory.
            yield from file.read(columns=columns).sort_by(_TIME).to_batches(_ROWS_AT_ONCE)
            return
    yield from file.iter_batches(_ROWS_AT_ONCE, columns=columns)


def _value(scalar: pa.Scalar) -> Any:
    """Lists as arrays, everything else as Python's own."""
    if scalar.is_valid and isinstance(scalar, (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)):
        return scalar.values.to_numpy(zero_copy_only=False)
    return scalar.as_py()


def _sensor_name(key: int | str, names: Mapping[int, str], what: str, folder: Path) -> str:
    """The name of a camera or laser from its number, or from the enum's word, which early releases have."""
    name = key.lower() if isinstance(key, str) else names.get(key)
    if name is None or name not in names.values():
        known = ", ".join(f"{number} ({word})" for number, word in names.items())
        raise WaymoError(f"{folder}: {what} {key!r} is unknown, expected one of {known}")
    return name

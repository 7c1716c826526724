"""A small drive in the published schema of the Waymo Open Dataset 2, with points whose place in the world is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

SEGMENT = "10000000000000000000_1120_000_1140_000"
START = 1_552_440_195_362_591  # microseconds
PERIOD = 100_000
IMAGE_DELAYS = {1: 50_000, 2: 42_000, 3: 58_000, 4: 31_000, 5: 70_000}  # of a camera's pose after the frame's start

TOP, FRONT_LASER = 1, 2
TOP_SHAPE, FRONT_SHAPE = (16, 90), (20, 60)
TOP_INCLINATIONS = np.linspace(-0.3, 0.04, TOP_SHAPE[0])  # from the lowest up, as stored
FRONT_LIMITS = (-1.2, 0.4)


def rotation(axis: str, angle: float) -> Matrix:
    """4x4 rotation about an axis, counter-clockwise."""
    vector = np.zeros(3)
    vector["xyz".index(axis)] = angle
    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(vector)[0]
    return matrix


def at(x: float, y: float, z: float) -> Matrix:
    """4x4 translation."""
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


VEHICLE_FROM_LASER = {
    TOP: at(1.4, 0.0, 2.2) @ rotation("z", 2.6) @ rotation("y", 0.01),
    FRONT_LASER: at(4.0, 0.0, 0.7) @ rotation("z", 0.05),
}
CAMERA_YAWS = {1: 0.0, 2: 0.8, 3: -0.8, 4: 1.6, 5: -1.6}
VEHICLE_FROM_CAMERA = {
    n: at(1.5, 0.1, 2.1) @ rotation("z", yaw) @ rotation("y", 0.02) for n, yaw in CAMERA_YAWS.items()
}
SIZES = {1: (480, 320), 2: (480, 320), 3: (480, 320), 4: (480, 222), 5: (480, 222)}
# f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3
INTRINSICS = {
    n: (500.0 + n, 502.0 - n, 236.0 + n, h / 2, 0.04, -0.2, 0.001, -0.002, 0.01) for n, (_, h) in SIZES.items()
}


def vehicle_pose(micros: float) -> Matrix:
    """Where the vehicle is: 12 m/s ahead in a left turn, on a road that banks."""
    seconds = (micros - START) / 1e6
    turn = rotation("z", 0.4 + 0.5 * seconds) @ rotation("y", 0.03) @ rotation("x", -0.02 + 0.1 * seconds)
    return at(120.0 + 12 * seconds, -80.0 + 3 * seconds, 15.0) @ turn


def frame_pose(micros: float) -> Matrix:
    """The pose that the data set gives a frame: that of the front image."""
    return vehicle_pose(micros + IMAGE_DELAYS[1])


def pixel_time(micros: float, column: int) -> float:
    """When the top laser measured a column."""
    return micros + PERIOD * column / TOP_SHAPE[1]


def seen_at(world: NDArray[np.float64], camera: int, micros: float) -> NDArray[np.float64]:
    """Pixels (N, 2) of world points, by the data set's camera model: x forward, y left, pixel 0 begins at 0.

    NaN for points that are not in front or not in the image.
    """
    camera_from_world = np.linalg.inv(vehicle_pose(micros + IMAGE_DELAYS[camera]) @ VEHICLE_FROM_CAMERA[camera])
    x, y, z = (world @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]).T
    f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3 = INTRINSICS[camera]
    u, v = -y / x, -z / x
    r2 = u * u + v * v
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    u, v = (
        u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u),
        v * radial + p1 * (r2 + 2 * v * v) + 2 * p2 * u * v,
    )
    pixels = np.stack((u * f_u + c_u, v * f_v + c_v), axis=1)
    width, height = SIZES[camera]
    inside = (x > 0) & (r2 < 1) & (pixels > 0).all(axis=1) & (pixels < (width, height)).all(axis=1)
    return np.where(inside[:, None], pixels, np.nan)


@dataclass
class Returns:
    """Range images of one laser in one frame, and where in the world their returns are, in order of pixels."""

    images: list[NDArray[np.float32]]
    world: NDArray[np.float64]


def scan(laser: int, micros: int, seed: int) -> Returns:
    """Random returns in a tenth of the pixels; the second image has fewer."""
    rng = np.random.default_rng(seed)
    shape = TOP_SHAPE if laser == TOP else FRONT_SHAPE
    images, world = [], []
    for share in (0.1, 0.02):
        image = np.zeros((*shape, 4), np.float32)
        image[..., 0] = -1
        for row, column in np.argwhere(rng.random(shape) < share):
            distance, intensity, elongation = rng.uniform(8, 60), rng.uniform(0, 2), rng.uniform(0, 1)
            image[row, column] = distance, intensity, elongation, -1
            pose = vehicle_pose(pixel_time(micros, column)) if laser == TOP else frame_pose(micros)
            ray = direction(laser, row, column) @ [float(np.float32(distance)), 0, 0, 1]
            world.append((pose @ VEHICLE_FROM_LASER[laser] @ ray)[:3])
        images.append(image)
    return Returns(images, np.array(world))


def direction(laser: int, row: int, column: int) -> Matrix:
    """Turns the laser's x axis to where a pixel looks."""
    (height, width), own = (TOP_SHAPE if laser == TOP else FRONT_SHAPE), VEHICLE_FROM_LASER[laser]
    if laser == TOP:
        inclination = TOP_INCLINATIONS[height - 1 - row]
    else:
        low, high = FRONT_LIMITS
        inclination = high - (row + 0.5) * (high - low) / height
    azimuth = np.pi - 2 * np.pi * (column + 0.5) / width - np.arctan2(own[1, 0], own[0, 0])
    return rotation("z", azimuth) @ rotation("y", -inclination)


def poses_of_pixels(micros: int) -> NDArray[np.float32]:
    """Roll, pitch, yaw, x, y, z of the vehicle for each pixel of the top laser."""
    image = np.zeros((*TOP_SHAPE, 6), np.float32)
    for column in range(TOP_SHAPE[1]):
        m = vehicle_pose(pixel_time(micros, column))
        roll, pitch, yaw = np.arctan2(m[2, 1], m[2, 2]), -np.arcsin(m[2, 0]), np.arctan2(m[1, 0], m[0, 0])
        image[:, column] = roll, pitch, yaw, *m[:3, 3]
    return image


def jpeg(camera: int, frame: int) -> bytes:
    """A picture that differs from camera to camera and frame to frame."""
    width, height = SIZES[camera]
    picture = np.full((height, width, 3), 40 * camera, np.uint8)
    cv2.putText(picture, f"{camera} {frame}", (20, 80), cv2.FONT_HERSHEY_SIMPLEX, 2, (255, 255, 255), 3)
    done, data = cv2.imencode(".jpg", picture)
    assert done
    return data.tobytes()


FLOATS, MATRIX, SHAPE = pa.list_(pa.float32()), pa.list_(pa.float64(), 16), pa.list_(pa.int32(), 3)
_KEY = {"key.segment_context_name": pa.string()}
_FRAME_KEY = {**_KEY, "key.frame_timestamp_micros": pa.int64()}
_RANGE_IMAGES = {
    f"range_image_return{n}.{part}": kind for n in (1, 2) for part, kind in (("values", FLOATS), ("shape", SHAPE))
}
# Component folder: its class, its key columns, its other columns.
SCHEMA: dict[str, tuple[str, dict[str, pa.DataType], dict[str, pa.DataType]]] = {
    "vehicle_pose": ("VehiclePoseComponent", _FRAME_KEY, {"world_from_vehicle.transform": MATRIX}),
    "camera_calibration": (
        "CameraCalibrationComponent",
        {**_KEY, "key.camera_name": pa.int8()},
        {
            **{f"intrinsic.{n}": pa.float64() for n in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")},
            "extrinsic.transform": MATRIX,
            "width": pa.int32(),
            "height": pa.int32(),
            "rolling_shutter_direction": pa.int8(),
        },
    ),
    "camera_image": (
        "CameraImageComponent",
        {**_FRAME_KEY, "key.camera_name": pa.int8()},
        {
            "image": pa.binary(),
            "pose.transform": MATRIX,
            **{f"velocity.linear_velocity.{axis}": pa.float32() for axis in "xyz"},
            **{f"velocity.angular_velocity.{axis}": pa.float64() for axis in "xyz"},
            "pose_timestamp": pa.float64(),
            "rolling_shutter_params.shutter": pa.float64(),
            "rolling_shutter_params.camera_trigger_time": pa.float64(),
            "rolling_shutter_params.camera_readout_done_time": pa.float64(),
        },
    ),
    "lidar_calibration": (
        "LiDARCalibrationComponent",
        {**_KEY, "key.laser_name": pa.int8()},
        {
            "extrinsic.transform": MATRIX,
            "beam_inclination.min": pa.float64(),
            "beam_inclination.max": pa.float64(),
            "beam_inclination.values": pa.list_(pa.float64()),
        },
    ),
    "lidar": ("LiDARComponent", {**_FRAME_KEY, "key.laser_name": pa.int8()}, _RANGE_IMAGES),
    "lidar_pose": (
        "LiDARPoseComponent",
        {**_FRAME_KEY, "key.laser_name": pa.int8()},
        {"range_image_return1.values": FLOATS, "range_image_return1.shape": SHAPE},
    ),
}


@dataclass
class WaymoDrive:
    """A drive to be written; tests take rows away or change them first.

    Attributes:
        frames: how many.
        rows: by component, each by the columns' short names.
        world: by frame, where the returns of all lasers are.
    """

    frames: int = 2
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    world: list[NDArray[np.float64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = {component: [] for component in SCHEMA}
        for camera, intrinsic in INTRINSICS.items():
            names = SCHEMA["camera_calibration"][2]
            width, height = SIZES[camera]
            values = (*intrinsic, VEHICLE_FROM_CAMERA[camera].ravel(), width, height, 4)
            self._add("camera_calibration", camera, dict(zip(names, values, strict=True)))
        for laser, matrix in VEHICLE_FROM_LASER.items():
            inclination = {
                "beam_inclination.min": FRONT_LIMITS[0] if laser == FRONT_LASER else TOP_INCLINATIONS[0],
                "beam_inclination.max": FRONT_LIMITS[1] if laser == FRONT_LASER else TOP_INCLINATIONS[-1],
                "beam_inclination.values": None if laser == FRONT_LASER else TOP_INCLINATIONS,
            }
            self._add("lidar_calibration", laser, {"extrinsic.transform": matrix.ravel(), **inclination})
        for frame in range(self.frames):
            self._add_frame(frame, START + frame * PERIOD)

    def _add_frame(self, frame: int, micros: int) -> None:
        self._add("vehicle_pose", None, {"world_from_vehicle.transform": frame_pose(micros).ravel()}, micros)
        for camera, delay in IMAGE_DELAYS.items():
            pose = vehicle_pose(micros + delay).ravel()
            image = {"image": jpeg(camera, frame), "pose.transform": pose, "pose_timestamp": (micros + delay) / 1e6}
            self._add("camera_image", camera, image, micros)
        world = []
        for laser in (FRONT_LASER, TOP):  # not the order of their numbers, as published
            returns = scan(laser, micros, seed=10 * frame + laser)
            world.append(returns.world)
            self._add("lidar", laser, _stored(*returns.images), micros)
        self._add("lidar_pose", TOP, _stored(poses_of_pixels(micros)), micros)
        self.world.append(np.concatenate(world))

    def _add(self, component: str, sensor: int | None, values: dict[str, Any], micros: int | None = None) -> None:
        key: dict[str, Any] = {"key.segment_context_name": SEGMENT}
        key |= {} if micros is None else {"key.frame_timestamp_micros": micros}
        sensor_key = [name for name in SCHEMA[component][1] if name.endswith(("camera_name", "laser_name"))]
        key |= dict.fromkeys(sensor_key, sensor)
        self.rows[component].append({**key, **values})

    def write(self, folder: Path, components: Sequence[str] = tuple(SCHEMA)) -> Path:
        """Write the components' folders into `folder`."""
        for component in components:
            kind, keys, columns = SCHEMA[component]
            schema = pa.schema([*keys.items(), *((f"[{kind}].{name}", dtype) for name, dtype in columns.items())])
            rows = self.rows[component]
            arrays = [pa.array([row.get(name) for row in rows], dtype) for name, dtype in {**keys, **columns}.items()]
            path = folder / component / f"{SEGMENT}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(arrays, schema=schema), path)
        return folder


def _stored(*images: NDArray[np.float32]) -> dict[str, Any]:
    parts = [(f"range_image_return{n}", image) for n, image in enumerate(images, start=1)]
    return {f"{name}.values": image.ravel() for name, image in parts} | {
        f"{name}.shape": image.shape for name, image in parts
    }

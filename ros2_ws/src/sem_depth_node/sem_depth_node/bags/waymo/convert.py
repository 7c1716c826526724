"""From a segment of the Waymo Open Dataset to a rosbag2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sem_depth_node.bags import messages
from sem_depth_node.bags.waymo.range_image import transformed, world_points
from sem_depth_node.bags.waymo.segment import CAMERAS, Matrix, WaymoError, WaymoFrame, WaymoSegment
from sem_depth_node.bags.writer import BagWriter, Storage
from sem_depth_node.transforms import BODY_FROM_OPTICAL

WORLD, VEHICLE = "map", "base_link"
POINTS = "/waymo/lidar/points"
POINT_FIELDS = ("x", "y", "z", "intensity", "elongation")


@dataclass
class WaymoReport:
    """What a conversion came to.

    Attributes:
        frames: turns of the top laser.
        images: by camera.
        clouds, points: of the lasers together.
        missing: what frames lacked, and how many did.
    """

    frames: int = 0
    images: Counter[str] = field(default_factory=Counter)
    clouds: int = 0
    points: int = 0
    missing: Counter[str] = field(default_factory=Counter)


def image_topic(camera: str) -> str:
    """The topic of a camera's images."""
    return f"/waymo/camera_{camera}/image_raw/compressed"


def camera_info_topic(camera: str) -> str:
    """The topic of a camera's calibration."""
    return f"/waymo/camera_{camera}/camera_info"


def optical_frame(camera: str) -> str:
    """The frame of a camera."""
    return f"camera_{camera}_optical_frame"


def waymo_to_bag(
    segment: WaymoSegment,
    out: Path,
    *,
    cameras: Collection[str] = (),
    max_frames: int | None = None,
    storage: Storage = "mcap",
    compress: bool = False,
    force: bool = False,
    on_frame: Callable[[int], None] = lambda frame: None,
) -> WaymoReport:
    """Write a segment as a bag: JPEG images as they are, camera_info with distortion, one cloud a turn, and transforms.

    An image has the time of its pose, and /tf the vehicle's pose at that time. The cloud joins all lasers and returns,
    in the vehicle's frame at the time of the front image (the nearest there is to the middle of the turn), which is its
    stamp: to look it up from a camera at its image's time goes through the frame "map".

    Args:
        segment: to convert.
        out: rosbag2 folder to make.
        cameras: names of those whose images to write; empty for all.
        max_frames: stop after so many; None for all.
        storage: the bag's format.
        compress: zstd an mcap's chunks; JPEGs hardly shrink, clouds do.
        force: replace an existing bag.
        on_frame: called with the number of frames done.

    Raises:
        WaymoError: the segment is damaged, has no frames, or not the cameras asked for.
        BagError: `out` exists.
    """
    if unknown := sorted(set(cameras) - set(segment.cameras)):
        known = ", ".join(segment.cameras)
        raise WaymoError(f"segment {segment.name} has no camera {', '.join(unknown)}, expected some of {known}")
    chosen = [name for name in segment.cameras if not cameras or name in cameras]
    report = WaymoReport()
    with BagWriter(out, storage, compress=compress, force=force) as writer:
        for frame in segment.frames():
            entries = sorted(_messages(segment, frame, chosen, report), key=lambda entry: entry[0])
            if entries and report.frames == 0:
                writer.write("/tf_static", entries[0][0], _sensor_frames(segment, entries[0][0]), latched=True)
            for time, topic, message in entries:
                writer.write(topic, time, message)
            report.frames += 1
            on_frame(report.frames)
            if report.frames == max_frames:
                break
        if not report.frames:
            raise WaymoError(f"segment {segment.name} has no frames")
    return report


def _messages(
    segment: WaymoSegment, frame: WaymoFrame, cameras: Collection[str], report: WaymoReport
) -> Iterator[tuple[int, str, Any]]:
    """Time, topic and message of everything in a frame."""
    report.missing.update(f"image of camera {name}" for name in cameras if name not in frame.images)
    report.missing.update(f"scan of laser {name}" for name in segment.lasers if name not in frame.scans)
    if frame.world_from_vehicle is None:
        report.missing["vehicle pose"] += 1

    poses = {image.time: image.world_from_vehicle for image in frame.images.values()}
    reference = next((frame.images[name].time for name in CAMERAS.values() if name in frame.images), frame.time)
    if not poses and frame.world_from_vehicle is not None:
        poses[frame.time] = frame.world_from_vehicle
    for time, pose in poses.items():
        yield time, "/tf", messages.tf(messages.transform(time, WORLD, VEHICLE, pose))

    for name in cameras:
        if image := frame.images.get(name):
            head = messages.header(image.time, optical_frame(name))
            yield image.time, image_topic(name), messages.compressed_image(head, image.jpeg, "jpeg")
            yield image.time, camera_info_topic(name), messages.camera_info(head, segment.cameras[name].model)
            report.images[name] += 1

    if frame.scans and frame.world_from_vehicle is not None:
        points = _points(segment, frame, frame.world_from_vehicle, poses[reference])
        yield reference, POINTS, messages.point_cloud(messages.header(reference, VEHICLE), points, POINT_FIELDS)
        report.clouds += 1
        report.points += len(points)


def _points(
    segment: WaymoSegment, frame: WaymoFrame, world_from_vehicle: Matrix, world_from_reference: Matrix
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """All returns of a frame (N, 5): `POINT_FIELDS`, in the vehicle's frame at the reference pose."""
    reference_from_world: Matrix = np.asarray(np.linalg.inv(world_from_reference))
    clouds = []
    for name, scan in frame.scans.items():
        if name not in segment.lasers:
            raise WaymoError(f"segment {segment.name}: laser {name} has scans but no calibration")
        try:
            points, features = world_points(scan, segment.lasers[name], world_from_vehicle)
        except ValueError as error:
            raise WaymoError(f"segment {segment.name}, frame at {frame.time} ns, laser {name}: {error}") from error
        clouds.append(np.vstack((transformed(reference_from_world, points).astype(np.float32), features)))
    return np.concatenate(clouds, axis=1).T


def _sensor_frames(segment: WaymoSegment, time: int) -> Any:
    cameras = (
        messages.transform(time, VEHICLE, optical_frame(name), camera.vehicle_from_camera @ BODY_FROM_OPTICAL)
        for name, camera in segment.cameras.items()
    )
    lasers = (
        messages.transform(time, VEHICLE, f"lidar_{name}", laser.vehicle_from_laser)
        for name, laser in segment.lasers.items()
    )
    return messages.tf(*cameras, *lasers)

"""Cameras: where they are, how they look, and the varied ones of the training set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .layout import StreetLayout

# width, height, share: KITTI-like strips, other wide pictures, and 3:2 as Waymo's cameras have it
SIZES = ((640, 192, 0.5), (640, 224, 0.12), (576, 256, 0.13), (480, 320, 0.25))


@dataclass(frozen=True)
class View:
    """A pinhole camera with square pixels. ``pose`` is world from optical frame (4, 4); pixel (0, 0) is a centre."""

    width: int
    height: int
    focal: float
    cx: float
    cy: float
    pose: npt.NDArray[np.float64] = field(repr=False)

    def rays(self) -> npt.NDArray[np.float32]:
        """Directions (H, W, 3) in the optical frame with z = 1."""
        x = (np.arange(self.width) - self.cx) / self.focal
        y = (np.arange(self.height) - self.cy) / self.focal
        return np.stack([*np.meshgrid(x, y), np.ones((self.height, self.width))], -1).astype(np.float32)


def optical_pose(position: npt.ArrayLike, yaw: float, pitch: float = 0.0, roll: float = 0.0) -> npt.NDArray[Any]:
    """World from optical frame: yaw to the left, pitch upwards, roll clockwise, radians."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    forward = np.array([cy * cp, sy * cp, sp])
    right = np.array([sy, -cy, 0.0])
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
    pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
    pose[:3, 2] = forward
    pose[:3, 3] = position
    return pose


def sample_view(layout: StreetLayout, station: float, rng: np.random.Generator) -> View:
    """A car's, van's or lorry's camera at ``station`` in the ego lane, with its own lens and mounting."""
    width, height, _ = SIZES[rng.choice(len(SIZES), p=[size[2] for size in SIZES])]
    # KITTI's focal length is 0.58 of its width; from wide angle (96 degrees) to a short telephoto (49 degrees)
    focal = width * float(np.exp(rng.uniform(np.log(0.45), np.log(1.1))))
    camera_height = float(rng.choice([1.65, rng.uniform(1.15, 1.9), rng.uniform(1.9, 2.7)], p=[0.4, 0.4, 0.2]))
    offset = layout.ego_offset + rng.normal(0, 0.15)
    position = layout.road.points(station, offset, camera_height)
    yaw = layout.road.heading(station) + rng.normal(0, 0.03)
    pitch = layout.road.grade(station) + rng.normal(-0.005, 0.02)
    cx = (width - 1) / 2 + rng.normal(0, 0.01) * width
    cy = (height - 1) / 2 + rng.normal(0, 0.02) * height
    return View(width, height, focal, float(cx), float(cy), optical_pose(position, yaw, pitch, rng.normal(0, 0.01)))

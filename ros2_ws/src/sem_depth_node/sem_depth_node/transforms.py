"""Poses between coordinate frames, from the transforms that ROS publishes on /tf and /tf_static."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.stamps import NANOSECONDS, nanoseconds

Matrix = NDArray[np.float64]

# An optical frame (z forward, x right, y down) seen from a body frame (x forward, y left, z up), REP 103.
BODY_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


class TransformError(Exception):
    """Two frames that the transforms do not connect, or not at that time; the message names them and what is known."""


@dataclass
class _Edge:
    """The pose of a frame in its parent: one for good, or one for each of several times."""

    parent: str
    static: bool
    times: list[int] = field(default_factory=list)
    poses: list[Matrix] = field(default_factory=list)

    def add(self, time: int, pose: Matrix, window: int | None) -> None:
        if self.static and self.times and time < self.times[0] and window is None:
            return
        if self.static:
            self.times, self.poses = [time], [pose]
            return
        place = bisect.bisect_right(self.times, time)
        self.times.insert(place, time)
        self.poses.insert(place, pose)
        if window is not None:
            kept = slice(bisect.bisect_left(self.times, time - window), bisect.bisect_right(self.times, time + window))
            self.times, self.poses = self.times[kept], self.poses[kept]

    def at(self, time: int, held: int | None) -> Matrix:
        """Interpolated between neighbours in time; outside the recorded times the nearest one, `held` nanoseconds.

        Raises:
            TransformError: the nearest is farther away in time.
        """
        after = bisect.bisect_left(self.times, time)
        if after in (0, len(self.times)):
            nearest = -1 if after else 0
            apart = abs(time - self.times[nearest])
            if held is not None and apart > held and not self.static:
                raise TransformError(f"its pose nearest in time is {apart / NANOSECONDS:.1f} s away")
            return self.poses[nearest]
        before = after - 1
        share = (time - self.times[before]) / (self.times[after] - self.times[before])
        return _between(self.poses[before], self.poses[after], share)


class TransformTree:
    """Frames and their poses in their parents.

    Args:
        transforms: to `add`.
        window: nanoseconds. Of transforms that change, those are forgotten that are farther in time from one just
            added, so that a tree that lives long does not grow, and a clock that jumps back starts anew. None keeps
            all.
        held: nanoseconds before the first and after the last pose known of a frame for which that one serves; whoever
            told of it may be gone. None is for ever. (tf2 does not extrapolate at all.)

    Raises:
        ValueError: a transform's quaternion has no length.
    """

    def __init__(
        self, transforms: Iterable[tuple[Any, bool]] = (), window: int | None = None, held: int | None = None
    ) -> None:
        self._edges: dict[str, _Edge] = {}
        self._window, self._held = window, held
        for stamped, static in transforms:
            self.add(stamped, static)

    def add(self, stamped: Any, static: bool) -> None:
        """Add a geometry_msgs/TransformStamped. `static` ones hold for all times.

        Of several static ones the latest counts, as a bag may tell them in any order; in a tree with a window the one
        that came last, as a clock may jump back.

        Raises:
            ValueError: its quaternion has no length.
        """
        pose = matrix_of(stamped.transform)
        parent, child = _name(stamped.header.frame_id), _name(stamped.child_frame_id)
        edge = self._edges.get(child)
        if edge is None or (edge.parent, edge.static) != (parent, static):
            edge = self._edges[child] = _Edge(parent, static)
        edge.add(nanoseconds(stamped.header.stamp), pose, self._window)

    def lookup(self, target: str, source: str, time: int) -> Matrix:
        """The (4, 4) matrix that takes points of frame `source` to frame `target` at `time` (nanoseconds).

        Raises:
            TransformError: the frames are not connected, or one that moves was not told of near that time.
        """
        to_source, to_target = self._ancestors(_name(source), time), self._ancestors(_name(target), time)
        for frame, matrix in to_source.items():
            if frame in to_target:
                return np.asarray(np.linalg.inv(to_target[frame]) @ matrix)
        known = ", ".join(sorted({*self._edges, *(edge.parent for edge in self._edges.values())})) or "none"
        raise TransformError(f"no transform from {source!r} to {target!r}; frames in tf: {known}")

    def _ancestors(self, frame: str, time: int) -> dict[str, Matrix]:
        """Each frame from `frame` up to its root, with the matrix that takes points of `frame` there."""
        chain = {frame: np.eye(4)}
        matrix = chain[frame]
        while frame in self._edges and (parent := self._edges[frame].parent) not in chain:
            try:
                matrix = self._edges[frame].at(time, self._held) @ matrix
            except TransformError as error:
                raise TransformError(f"transform from {frame!r} to {parent!r}: {error}") from None
            chain[parent] = matrix
            frame = parent
        return chain


def matrix_of(pose: Any) -> NDArray[np.float64]:
    """The (4, 4) matrix of a geometry_msgs/Transform.

    Raises:
        ValueError: its quaternion has no length, or a number is not finite.
    """
    q = np.array([pose.rotation.x, pose.rotation.y, pose.rotation.z, pose.rotation.w])
    translation = np.array([pose.translation.x, pose.translation.y, pose.translation.z])
    if not (np.isfinite(q).all() and np.isfinite(translation).all()):
        raise ValueError(f"quaternion {q.tolist()} and translation {translation.tolist()} are not all finite")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(q), translation
    return matrix


def rotation(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) of a quaternion x, y, z, w of any length.

    Raises:
        ValueError: it has no length.
    """
    length = float(np.linalg.norm(q))
    if not length > 0:
        raise ValueError(f"quaternion {q.tolist()} is no rotation, expected a length above 0")
    x, y, z, w = q / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(matrix: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Unit quaternion x, y, z, w of a rotation (3, 3), the nearest one where `matrix` is off by rounding.

    The eigenvector of Bar-Itzhack's K matrix (J. Guidance 23(6), 2000), which needs no case distinctions.
    """
    r = matrix
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    values, vectors = np.linalg.eigh(k / 3)
    x, y, z, w = vectors[:, np.argmax(values)] * (1 if vectors[3, np.argmax(values)] >= 0 else -1)
    return float(x), float(y), float(z), float(w)


def _between(a: Matrix, b: Matrix, share: float) -> Matrix:
    """Linear in position, spherical linear in rotation."""
    p, q = np.array(quaternion(a[:3, :3])), np.array(quaternion(b[:3, :3]))
    cosine = float(p @ q)
    if cosine < 0:  # the same rotation, the short way round
        q, cosine = -q, -cosine
    angle = np.arccos(min(cosine, 1.0))
    if angle > 1e-6:
        mixed = (np.sin((1 - share) * angle) * p + np.sin(share * angle) * q) / np.sin(angle)
    else:
        mixed = (1 - share) * p + share * q
    pose = np.eye(4)
    pose[:3, :3] = rotation(mixed)
    pose[:3, 3] = (1 - share) * a[:3, 3] + share * b[:3, 3]
    return pose


def _name(frame: str) -> str:
    # ROS 1 bags may have the leading slash that tf2 does away with.
    return frame.removeprefix("/")

"""Poses between the frames of a bag, from its /tf and /tf_static."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bags.messages import matrix_of, nanoseconds, quaternion, rotation
from sem_depth_node.bags.reader import BagReader

TF_MESSAGE = "tf2_msgs/msg/TFMessage"

Matrix = NDArray[np.float64]


class TransformError(Exception):
    """Two frames that the transforms do not connect; the message names them and those that are known."""


@dataclass
class _Edge:
    """The pose of a frame in its parent: one for good, or one for each of several times."""

    parent: str
    static: bool
    times: list[int] = field(default_factory=list)
    poses: list[Matrix] = field(default_factory=list)

    def at(self, time: int) -> Matrix:
        """Interpolated between neighbours in time; the nearest one outside the recorded times."""
        after = bisect.bisect_left(self.times, time)
        if self.static or after == len(self.times):
            return self.poses[-1]
        if after == 0:
            return self.poses[0]
        before = after - 1
        share = (time - self.times[before]) / (self.times[after] - self.times[before])
        return _between(self.poses[before], self.poses[after], share)


class TransformTree:
    """Frames and their poses in their parents.

    Args:
        transforms: pairs of a geometry_msgs/TransformStamped and whether it holds for good.

    Raises:
        ValueError: a transform's quaternion has no length.
    """

    def __init__(self, transforms: Iterable[tuple[Any, bool]] = ()) -> None:
        self._edges: dict[str, _Edge] = {}
        for stamped, static in transforms:
            parent, child = _name(stamped.header.frame_id), _name(stamped.child_frame_id)
            if child not in self._edges or self._edges[child].parent != parent:
                self._edges[child] = _Edge(parent, static)
            edge = self._edges[child]
            time = nanoseconds(stamped.header.stamp)
            place = bisect.bisect_right(edge.times, time)
            edge.times.insert(place, time)
            edge.poses.insert(place, matrix_of(stamped.transform))

    @classmethod
    def from_bag(cls, bag: BagReader) -> TransformTree:
        """All transforms of a bag: topics named tf and tf_static, in any namespace."""
        topics = [
            t.name
            for t in bag.topics.values()
            if t.type == TF_MESSAGE and t.name.rpartition("/")[2] in ("tf", "tf_static")
        ]
        return cls(
            (stamped, message.topic.endswith("tf_static"))
            for message in (bag.messages(topics) if topics else ())
            for stamped in bag.decode(message).transforms
        )

    def lookup(self, target: str, source: str, time: int) -> Matrix:
        """The (4, 4) matrix that takes points of frame `source` to frame `target` at `time` (nanoseconds).

        Raises:
            TransformError: the frames are not connected.
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
            matrix = self._edges[frame].at(time) @ matrix
            chain[parent] = matrix
            frame = parent
        return chain


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

"""Triangles by material: what a renderer needs of everything that is not a downloaded model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """Look of a surface; ``colour`` is linear RGB in 0..1 and multiplies the texture, if there is one.

    ``texture`` names a function of :mod:`.textures` and its seed; ``texture_metres`` is the side of one tile.
    """

    name: str
    colour: Colour = (1.0, 1.0, 1.0)
    texture: tuple[str, int] | None = None
    texture_metres: float = 1.0
    roughness: float = 0.85
    metallic: float = 0.0
    specular: float = 0.3
    emission: float = 0.0
    wettable: bool = False  # gets puddles and a sheen in rain
    mottled: bool = False  # slow brightness changes over metres


@dataclass
class Geometry:
    """A growing set of triangles; texture coordinates are metres along the surface unless said otherwise."""

    materials: dict[str, Material] = field(default_factory=dict)
    _triangles: dict[str, list[tuple[Array, Array]]] = field(default_factory=lambda: defaultdict(list))

    def triangles(self) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Per material name: vertices (n, 3, 3) and texture coordinates (n, 3, 2), in tiles of the texture."""
        result = {}
        for name, pieces in self._triangles.items():
            metres = self.materials[name].texture_metres
            result[name] = (
                np.concatenate([vertices for vertices, _ in pieces]).astype(np.float32),
                (np.concatenate([uv for _, uv in pieces]) / metres).astype(np.float32),
            )
        return result

    def add(self, material: Material, vertices: Array, uv: Array) -> None:
        self.materials.setdefault(material.name, material)
        self._triangles[material.name].append((vertices.reshape(-1, 3, 3), uv.reshape(-1, 3, 2)))

    def quads(self, material: Material, corners: Array, uv: Array | None = None) -> None:
        """Corners (n, 4, 3), counter-clockwise seen from outside. ``uv`` defaults to metres along the first edge."""
        corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4, 3)
        if uv is None:
            across = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1)
            up = np.linalg.norm(corners[:, 3] - corners[:, 0], axis=1)
            zero = np.zeros_like(across)
            uv = np.stack([zero, zero, across, zero, across, up, zero, up], -1)
        uv = np.asarray(uv, dtype=np.float64).reshape(-1, 4, 2)
        split = [0, 1, 2, 0, 2, 3]
        self.add(material, corners[:, split], uv[:, split])

    def grid(self, material: Material, points: Array, uv: Array) -> None:
        """A surface through points (rows, columns, 3) with shared corners, so that no ray slips between cells."""

        def cells(values: Array) -> Array:
            return np.stack([values[:-1, :-1], values[:-1, 1:], values[1:, 1:], values[1:, :-1]], 2)

        self.quads(material, cells(points).reshape(-1, 4, 3), cells(uv).reshape(-1, 4, 2))

    def polygon(self, material: Material, corners: Array, uv: Array) -> None:
        """A convex polygon (n, 3) as a fan."""
        fan = np.array([[0, i, i + 1] for i in range(1, len(corners) - 1)])
        self.add(material, np.asarray(corners)[fan], np.asarray(uv)[fan])

    def box(self, material: Material, centre: Sequence[float] | Array, size: Sequence[float], yaw: float = 0.0) -> None:
        """A box of ``size`` (along its own x, y, z) around ``centre``, turned by ``yaw`` about z."""
        half = np.asarray(size, dtype=np.float64) / 2
        cos, sin = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        faces = []
        for axis in range(3):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            for sign in (-1.0, 1.0):
                face = np.zeros((4, 3))
                face[:, axis] = sign * half[axis]
                face[:, u] = np.array([-1, 1, 1, -1]) * half[u] * sign
                face[:, v] = np.array([-1, -1, 1, 1]) * half[v]
                faces.append(face)
        self.quads(material, np.array(faces) @ rotation.T + np.asarray(centre))

    def cylinder(
        self,
        material: Material,
        start: Array,
        end: Array,
        radius: float,
        end_radius: float | None = None,
        sides: int = 10,
    ) -> None:
        """An open tube between two points."""
        start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        axis = (end - start) / np.linalg.norm(end - start)
        helper = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
        first = np.cross(axis, helper)
        first /= np.linalg.norm(first)
        angle = np.linspace(0, 2 * np.pi, sides + 1)
        ring = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * np.cross(axis, first)
        ring[-1] = ring[0]
        rings = np.stack([start + radius * ring, end + (radius if end_radius is None else end_radius) * ring])
        around = np.broadcast_to(angle * radius, (2, sides + 1))
        along = np.broadcast_to(np.array([[0.0], [float(np.linalg.norm(end - start))]]), (2, sides + 1))
        self.grid(material, rings, np.stack([around, along], -1))

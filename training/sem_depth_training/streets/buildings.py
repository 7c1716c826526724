"""The house fronts: walls with real window openings, shops, balconies, cornices and roofs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .geometry import Array, Colour, Geometry, Material
from .layout import Building

WALL_COLOURS: tuple[Colour, ...] = (
    (0.78, 0.70, 0.52), (0.80, 0.77, 0.71), (0.70, 0.52, 0.40), (0.63, 0.65, 0.65), (0.80, 0.72, 0.42),
    (0.62, 0.40, 0.34), (0.86, 0.84, 0.80), (0.55, 0.57, 0.55), (0.70, 0.62, 0.50), (0.66, 0.70, 0.72),
)  # fmt: skip
FRAME_COLOURS: tuple[Colour, ...] = ((0.8, 0.8, 0.78), (0.2, 0.13, 0.08), (0.35, 0.36, 0.37), (0.75, 0.71, 0.63))
DOOR_COLOURS: tuple[Colour, ...] = ((0.2, 0.09, 0.04), (0.04, 0.12, 0.06), (0.05, 0.07, 0.2), (0.25, 0.25, 0.25))
CORE_INSET = 0.45  # metres behind the front where a dark core stops rays that slip past a pane


def add_building(geometry: Geometry, building: Building, *, urban: bool, lit: float) -> None:
    """``lit`` is the share of windows with a light on."""
    _House(geometry, building, urban, lit).build()


class _House:
    def __init__(self, geometry: Geometry, building: Building, urban: bool, lit: float) -> None:
        self.geometry, self.building, self.urban, self.lit = geometry, building, urban, lit
        self.rng = rng = np.random.default_rng([building.seed, 0xB01D])
        along = np.array([np.cos(building.yaw), np.sin(building.yaw), 0.0])
        self.axes = np.stack([along, np.array([-along[1], along[0], 0.0]), np.array([0.0, 0.0, 1.0])])
        self.origin = np.array(building.corner) - np.array([0.0, 0.0, 0.05])
        tint = WALL_COLOURS[rng.integers(len(WALL_COLOURS))]
        texture, metres = (("plaster", 4.0), ("plaster", 4.0), ("brick", 3.0), ("ashlar", 4.0))[rng.integers(4)]
        variant = int(rng.integers(3))
        name = f"{texture}{variant}"
        if texture == "plaster":
            name += f"-{WALL_COLOURS.index(tint)}"
        self.wall = Material(
            name, tint if texture == "plaster" else (1, 1, 1), (texture, variant), metres, mottled=True
        )
        frame = int(rng.integers(len(FRAME_COLOURS)))
        self.frame = Material(f"frame{frame}", FRAME_COLOURS[frame], roughness=0.5)
        stone = int(rng.integers(2))
        self.stone = Material(f"stone{stone}", ((0.8, 0.78, 0.74), (0.55, 0.53, 0.5))[stone], ("concrete", 0), 3.0)

    def at(self, x: Any, y: Any, z: Any) -> npt.NDArray[np.float64]:
        """World points: x along the front, y into the house, z up."""
        x, y, z = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float), np.asarray(z, float))
        return np.asarray(self.origin + np.stack([x, y, z], -1) @ self.axes)

    def box(self, material: Material, centre: tuple[float, float, float], size: tuple[float, float, float]) -> None:
        self.geometry.box(material, self.at(*centre), size, self.building.yaw)

    def build(self) -> None:
        b, rng = self.building, self.rng
        ground = b.storey_height * 1.15
        bays = max(1, int(b.width / rng.uniform(2.2, 3.5)))
        bay = b.width / bays
        window = min(rng.uniform(0.95, 1.7), bay * 0.7)
        tall = min(rng.uniform(1.3, 1.95), b.storey_height - 1.1)
        shop = self.urban and rng.random() < 0.5
        self.recess = rng.uniform(0.08, 0.22)
        self._front(0.0, ground, [ground], bays, bay, window, tall, shop=shop, ground=True)
        upper = ground + b.storey_height * np.arange(1, b.storeys)
        top = float(upper[-1]) + 0.5 if len(upper) else ground + 0.5
        if len(upper):
            self._front(ground, top, list(upper), bays, bay, window, tall, shop=False, ground=False)
        else:
            self._wall(np.array([0, b.width]), np.array([ground, top]), np.zeros((1, 1), bool))
        # A band over the seam between the two window grids hides the hairline a ray could slip through.
        self.box(self.stone, (b.width / 2, 0.0, ground), (b.width, 0.12, 0.18))
        if shop:
            self._shop_signs(ground)
        if rng.random() < 0.6:
            self.box(self.stone, (b.width / 2, -0.1, top - 0.12), (b.width, 0.34, 0.24))
        if rng.random() < 0.5:
            self.box(self.stone, (b.width / 2, -0.02, 0.25), (b.width, 0.08, 0.5)) if not shop else None
        if rng.random() < 0.35 and len(upper) and self.urban:
            self._balconies(upper[:-1] if len(upper) > 1 else upper, bays, bay, ground)
        if rng.random() < 0.7:
            pipe = Material("downpipe", (0.3, 0.29, 0.28), roughness=0.5, metallic=0.3)
            self.geometry.cylinder(pipe, self.at(0.25, -0.08, 0.0), self.at(0.25, -0.08, top), 0.05, sides=8)
        self._shell(top)
        self._roof(top)

    def _wall(self, xs: Array, zs: Array, open_cell: npt.NDArray[np.bool_], y: float = 0.0) -> None:
        corners, uv = [], []
        for row in range(len(zs) - 1):
            for column in range(len(xs) - 1):
                if not open_cell[row, column]:
                    x, z = xs[[column, column + 1, column + 1, column]], zs[[row, row, row + 1, row + 1]]
                    corners.append(self.at(x, y, z))
                    uv.append(np.stack([x, z], -1))
        self.geometry.quads(self.wall, np.array(corners), np.array(uv))

    def _front(
        self, bottom: float, top: float, ceilings: list[float], bays: int, bay: float, window: float, tall: float,
        *, shop: bool, ground: bool,
    ) -> None:  # fmt: skip
        """One grid of wall cells and openings; every cell shares its corners with its neighbours."""
        rng = self.rng
        width = bay * 0.86 if shop else window
        lefts = np.arange(bays) * bay + (bay - width) / 2
        xs = np.unique(np.concatenate([[0.0, self.building.width], lefts, lefts + width]))
        sills, heads, floor = [], [], bottom
        for ceiling in ceilings:
            sills.append(0.35 if shop else floor + 0.85)
            heads.append(min(ceiling - 0.65, ceiling) if shop else min(sills[-1] + tall, ceiling - 0.25))
            floor = ceiling
        zs = np.unique(np.concatenate([[bottom, top], sills, heads]))
        is_open = np.zeros((len(zs) - 1, len(xs) - 1), bool)
        for sill in sills:
            for left in lefts:
                is_open[np.searchsorted(zs, sill), np.searchsorted(xs, left)] = True
        self._wall(xs, zs, is_open)
        door = int(rng.integers(bays)) if ground else -1
        for sill, head in zip(sills, heads, strict=True):
            for index, left in enumerate(lefts):
                self._opening(left, left + width, sill, head, shop=shop)
                if not ground and sill > 2:
                    self.box(self.stone, (left + width / 2, -0.04, sill - 0.03), (width + 0.16, 0.16, 0.06))
                if index == door:
                    self._door(left + width / 2, 0.02)

    def _opening(self, left: float, right: float, sill: float, head: float, *, shop: bool) -> None:
        rng, deep = self.rng, self.recess
        x, z = np.array([left, right, right, left]), np.array([sill, sill, head, head])
        outer, inner = self.at(x, 0.0, z), self.at(x, deep, z)
        reveal = [np.stack([outer[i], outer[(i + 1) % 4], inner[(i + 1) % 4], inner[i]]) for i in range(4)]
        self.geometry.quads(self.frame, np.array(reveal)[:, ::-1])
        variant = int(rng.integers(8))
        texture = ("shopwindow" if shop else "window", variant)
        glowing = rng.random() < (0.7 * self.lit + 0.2 if shop and self.lit else self.lit)
        glass = Material(
            f"{texture[0]}{variant}{'-lit' if glowing else ''}",
            (1, 0.86, 0.62) if glowing else (1, 1, 1),
            texture,
            roughness=0.04,
            specular=0.9,
            emission=float(1.6 if glowing else 0.0),
        )
        self.geometry.quads(glass, inner, np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float))
        bars = np.linspace(left, right, (3 if right - left < 2 else 4))
        for bar in bars[1:-1]:
            self.box(self.frame, (bar, deep - 0.02, (sill + head) / 2), (0.06, 0.04, head - sill))
        for edge in (left + 0.03, right - 0.03):
            self.box(self.frame, (edge, deep - 0.02, (sill + head) / 2), (0.06, 0.05, head - sill))
        for edge in (sill + 0.03, head - 0.03):
            self.box(self.frame, ((left + right) / 2, deep - 0.02, edge), (right - left, 0.05, 0.06))

    def _door(self, x: float, z: float) -> None:
        index = int(self.rng.integers(len(DOOR_COLOURS)))
        self.box(self.stone, (x, -0.03, z + 1.15), (1.35, 0.1, 2.3))
        self.box(Material(f"door{index}", DOOR_COLOURS[index], roughness=0.45), (x, -0.06, z + 1.08), (1.05, 0.1, 2.16))

    def _shop_signs(self, ground: float) -> None:
        x = 0.3
        while x < self.building.width - 2.5:
            width, variant = min(self.building.width - x - 0.3, self.rng.uniform(3.5, 8)), int(self.rng.integers(12))
            sign = Material(
                f"shopsign{variant}", (1, 1, 1), ("shopsign", variant), roughness=0.4, emission=0.5 * self.lit
            )
            left, right = x, x + width
            self.box(self.frame, ((left + right) / 2, -0.06, ground - 0.38), (width, 0.13, 0.56))
            xs, zs = np.array([left, right, right, left]), ground + np.array([-0.66, -0.66, -0.1, -0.1])
            uv = np.array([[0, 0.35], [1, 0.35], [1, 0.65], [0, 0.65]])
            self.geometry.quads(sign, self.at(xs, -0.135, zs), uv)
            if self.rng.random() < 0.35:
                self._awning(left + 0.1, right - 0.1, ground - 0.7)
            x += width + 0.4

    def _awning(self, left: float, right: float, z: float) -> None:
        index = int(self.rng.integers(4))
        cloth = Material(
            f"awning{index}", ((0.5, 0.06, 0.05), (0.05, 0.2, 0.1), (0.6, 0.55, 0.45), (0.06, 0.1, 0.25))[index]
        )
        xs = np.array([left, right, right, left])
        self.geometry.quads(cloth, self.at(xs, [-0.58, -0.58, -0.06, -0.06], [z - 0.35, z - 0.35, z, z]))

    def _balconies(self, floors: Array, bays: int, bay: float, ground: float) -> None:
        rail = Material("balcony-rail", (0.08, 0.08, 0.085), roughness=0.4, metallic=0.4)
        every = int(self.rng.integers(1, 3))
        for floor in np.concatenate([[ground], floors]):
            for index in range(0, bays, every):
                x, wide = (index + 0.5) * bay, bay * 0.88
                self.box(self.stone, (x, -0.28, floor + 0.02), (wide, 0.56, 0.12))
                for z in (0.2, 1.0):
                    self.box(rail, (x, -0.54, floor + z), (wide, 0.03, 0.05))
                for post in np.linspace(x - wide / 2 + 0.02, x + wide / 2 - 0.02, max(2, int(wide / 0.14))):
                    self.box(rail, (post, -0.54, floor + 0.6), (0.02, 0.02, 0.8))

    def _shell(self, top: float) -> None:
        """Sides, back and the dark core behind the panes."""
        b = self.building
        z = np.array([0.0, 0.0, top, top])
        for side, ys in ((0.0, (b.depth, 0.0)), (b.width, (0.0, b.depth))):
            y = np.array([ys[0], ys[1], ys[1], ys[0]])
            self.geometry.quads(self.wall, self.at(side, y, z), np.stack([y, z], -1))
        x = np.array([b.width, 0.0, 0.0, b.width])
        self.geometry.quads(self.wall, self.at(x, b.depth, z), np.stack([x, z], -1))
        core = Material("core", (0.02, 0.02, 0.02))
        size = (b.width - 2 * 0.05, b.depth - CORE_INSET - 0.05, top - 0.1)
        self.box(core, (b.width / 2, CORE_INSET + size[1] / 2, top / 2), size)

    def _roof(self, top: float) -> None:
        b, rng = self.building, self.rng
        if self.urban and rng.random() < 0.35:
            flat = Material("flat-roof", (0.2, 0.2, 0.2))
            x, y = np.array([0, b.width, b.width, 0.0]), np.array([0, 0, b.depth, b.depth])
            self.geometry.quads(flat, self.at(x, y, top))
            parapet = Material("parapet", (0.5, 0.49, 0.47), ("concrete", 0), 3.0)
            self.box(parapet, (b.width / 2, 0.12, top + 0.25), (b.width, 0.24, 0.6))
            return
        variant = int(rng.integers(4))
        tiles = Material(f"tiles{variant}", (1, 1, 1), ("tiles", variant), 2.0)
        rise, eaves = min(b.depth * rng.uniform(0.25, 0.42), 5.0), 0.35
        slope = rise / (b.depth / 2)
        low, ridge = top - eaves * slope, top + rise
        for ys, zs in (((-eaves, b.depth / 2), (low, ridge)), ((b.depth + eaves, b.depth / 2), (low, ridge))):
            flip = ys[0] > ys[1]
            x = np.array([b.width, 0, 0, b.width]) if flip else np.array([0, b.width, b.width, 0])
            self.geometry.quads(tiles, self.at(x, [ys[0], ys[0], ys[1], ys[1]], [zs[0], zs[0], zs[1], zs[1]]))
        for side in (0.0, b.width):
            corners = self.at(side, [0, b.depth, b.depth / 2], [top, top, ridge])
            uv = np.array([[0, 0], [b.depth, 0], [b.depth / 2, rise]], float)
            order = [0, 1, 2] if side else [0, 2, 1]
            self.geometry.polygon(self.wall, corners[order], uv[order])
        chimney = Material("brick0", (1, 1, 1), ("brick", 0), 3.0, mottled=True)
        for _ in range(rng.integers(0, 3)):
            self.box(chimney, (rng.uniform(1, b.width - 1), b.depth * 0.42, ridge), (0.7, 0.6, 1.5))

"""From a street layout to triangles: ground, markings, houses, posts, walls and the land around."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .buildings import add_building
from .geometry import Array, Geometry, Material
from .layout import DITCH, LAND_REACH, Barrier, Post, SideStreet, StreetLayout

POLE = Material("pole", (0.3, 0.31, 0.32), roughness=0.45, metallic=0.6)
PAINT = Material("paint", (1, 1, 1), ("paint", 0), 2.0, 0.7, wettable=True)
PAINT_LIFT = 0.004  # metres that road paint lies above the asphalt


def build_geometry(layout: StreetLayout, *, night: bool = False) -> Geometry:
    """Everything of the street that is not a downloaded model. ``night`` lights lamps and some windows."""
    geometry = Geometry()
    rng = np.random.default_rng([layout.seed, 0x6E0])
    asphalt, grass = _ground(geometry, layout, rng)
    _markings(geometry, layout, rng)
    urban = layout.style == "city"
    for building in layout.buildings:
        add_building(geometry, building, urban=urban, lit=0.3 if night else 0.0)
    for post in layout.posts:
        _post(geometry, layout, post, night)
    for barrier in layout.barriers:
        _barrier(geometry, layout, barrier)
    for street in layout.side_streets:
        _side_street(geometry, layout, street, asphalt, grass)
    _horizon(geometry, layout, rng)
    return geometry


def _ground(geometry: Geometry, layout: StreetLayout, rng: np.random.Generator) -> tuple[Material, Material]:
    """One profile from side to side, swept along the stations: strips share their corners, so there are no seams.

    Returns the road's asphalt and the grass.
    """
    road, section = layout.road, layout.section
    asphalt = int(rng.integers(4))
    road_material = Material(
        f"asphalt{asphalt}", _grey(rng, 0.55, 1.0), ("asphalt", asphalt), 8.0, 0.85, wettable=True, mottled=True
    )
    paving = int(rng.integers(4))
    pavement = Material(f"paving{paving}", (1, 1, 1), ("paving", paving), 4.0, wettable=True, mottled=True)
    kerb = Material("kerb", (0.9, 0.9, 0.9), ("concrete", 0), 3.0)
    grass = Material(f"grass{int(rng.integers(3))}", (1, 1, 1), ("grass", int(rng.integers(3))), 5.0, mottled=True)
    beyond = pavement if layout.style == "city" else grass

    half, rise = section.half_width, section.kerb_height
    offsets, heights, materials = [0.0], [0.0], []
    for offset in np.linspace(half / 4, half, 4).tolist():
        offsets.append(offset)
        heights.append(0.0)
        materials.append(road_material)
    if section.pavement:
        for offset, height, material in (
            (half + 0.004, rise, kerb),
            (half + 0.16, rise, kerb),
            (section.edge, rise + 0.02 * section.pavement, pavement),
        ):
            offsets.append(offset)
            heights.append(height)
            materials.append(material)
    reach = np.linspace(0, 1, 15)[1:] ** 1.8 * LAND_REACH[layout.style]
    offsets += list(section.edge + reach)
    heights += [heights[-1]] * len(reach)
    materials += [beyond] * len(reach)

    stations = road.stations
    left = np.array(offsets)
    first_land = len(offsets) - len(reach)
    for side in (1, -1):
        profile = np.tile(np.array(heights), (len(stations), 1))
        profile[:, first_land:] += layout.land_height(stations[:, None], side * left[None, first_land:])
        points = road.points(stations[:, None], side * left[None], profile)
        uv = np.stack(np.broadcast_arrays(side * left[None], stations[:, None]), -1)
        for column, material in enumerate(materials):
            strip = slice(column, column + 2)
            piece, piece_uv = points[:, strip], uv[:, strip].copy()
            if material is kerb and column == 4:  # the kerb's face: height across, not offset
                piece_uv[..., 0] = np.array([0.0, rise])
            if side > 0:
                piece, piece_uv = piece[:, ::-1], piece_uv[:, ::-1]
            geometry.grid(material, piece, piece_uv)
    lowest = float(road.points(stations, 0.0)[:, 2].min())
    corners = np.array([[-1500, -1500], [1500, -1500], [1500, 1500], [-1500, 1500]], float)
    base = np.concatenate([corners, np.full((4, 1), lowest - 0.8)], 1)
    geometry.quads(
        grass if beyond is grass else Material("plain", (0.3, 0.3, 0.28), ("concrete", 0), 3.0), base, corners
    )
    return road_material, grass


def _grey(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    value = rng.uniform(low, high)
    return (value, value, value)


def _markings(geometry: Geometry, layout: StreetLayout, rng: np.random.Generator) -> None:
    section, road = layout.section, layout.road
    half, lanes, lane = section.half_width, section.lanes, section.lane_width
    junctions = [(side.station - side.half_width, side.station + side.half_width) for side in layout.side_streets]

    def line(offset: float, width: float, dash: float = 0.0, gap: float = 0.0) -> None:
        if dash:
            starts = np.arange(road.start, road.end - 1, dash + gap)
            pieces = [(start, min(start + dash, road.end)) for start in starts]
            broken = [(start, start + 4) for start in layout.crossings] + junctions
            pieces = [(a, b) for a, b in pieces if not any(a < end and b > start for start, end in broken)]
        else:
            pieces = list(pairwise([road.start, *(edge for junction in junctions for edge in junction), road.end]))[::2]
        for start, end in pieces:
            stations = np.linspace(start, end, max(2, int(end - start) + 1))
            offsets = np.array([offset + width / 2, offset - width / 2])
            points = road.points(stations[:, None], offsets[None], PAINT_LIFT)
            geometry.grid(PAINT, points, np.stack(np.broadcast_arrays(offsets[None], stations[:, None]), -1))

    if layout.style == "highway":
        for side in (-1, 1):
            for index in range(lanes // 2 + 1):
                at_edge = index in (0, lanes // 2)
                line(side * (section.median / 2 + index * lane), 0.15, 0.0 if at_edge else 6.0, 12.0)
    elif layout.style != "residential" or rng.random() < 0.5:
        solid_centre = rng.random() < 0.35
        for index in range(1, lanes):
            centre = index == lanes // 2
            line((index - lanes / 2) * lane, 0.12, 0.0 if centre and solid_centre else 3.0, float(rng.choice([3, 5])))
        if not section.pavement:
            for side in (-1, 1):
                line(side * (half - 0.3), 0.12)
    if section.parking and layout.style != "highway" and rng.random() < 0.6:
        for side in (-1, 1):
            line(side * (half - section.parking), 0.1)
    for start in layout.crossings:
        for offset in np.arange(-half + 0.5, half - 0.6, 1.0):
            points = road.points(
                np.array([[start], [start + 2], [start + 4]]), np.array([[offset + 0.5, offset]]), PAINT_LIFT
            )
            geometry.grid(PAINT, points, points[..., :2])
    repair = Material("repair", (0.45, 0.45, 0.46), ("asphalt", 1), 8.0, 0.9, wettable=True)
    for _ in range(rng.integers(0, 5)):
        start, offset = rng.uniform(0, 80), rng.uniform(-half + 1, half - 2.5)
        stations = np.linspace(start, start + rng.uniform(2, 9), 8)
        points = road.points(stations[:, None], np.array([[offset + rng.uniform(0.6, 2), offset]]), PAINT_LIFT / 2)
        geometry.grid(repair, points, points[..., :2])
    iron = Material("iron", (0.12, 0.11, 0.1), roughness=0.5, metallic=0.7)
    angle = np.linspace(0, 2 * np.pi, 17)[:-1]
    for _ in range(rng.integers(0, 5)):
        station, offset = rng.uniform(4, 70), rng.uniform(-half + 0.6, half - 0.6)
        rim = road.points(station + 0.33 * np.cos(angle), offset + 0.33 * np.sin(angle), 1.5 * PAINT_LIFT)
        geometry.polygon(iron, rim, rim[:, :2])


def _side_street(
    geometry: Geometry, layout: StreetLayout, street: SideStreet, asphalt: Material, grass: Material
) -> None:
    """Asphalt on both sides of the road, level with it above the ditch, its slopes, and a line along its middle."""
    road, half = layout.road, layout.section.half_width
    before, behind = street.station - street.half_width, street.station + street.half_width
    stations = np.linspace(before, behind, 9)

    def strip(material: Material, along: Array, offsets: Array, heights: Array | float) -> None:
        points = road.points(along[:, None], offsets[None], heights)
        geometry.grid(material, points, np.stack(np.broadcast_arrays(offsets[None], along[:, None]), -1))

    for start, end in ((street.reach, half), (-half, -street.reach)):
        offsets = np.linspace(start, end, 15)
        strip(asphalt, stations, offsets, PAINT_LIFT / 2)
        strip(grass, np.array([before - 0.6, before]), offsets, np.array([[-DITCH - 0.05], [PAINT_LIFT / 2]]))
        strip(grass, np.array([behind, behind + 0.6]), offsets, np.array([[PAINT_LIFT / 2], [-DITCH - 0.05]]))
        for dash in np.arange(min(start, end) + 4, max(start, end) - 4, 6.0):
            middle = street.station + np.array([-0.06, 0.06])
            strip(PAINT, middle, np.array([dash + 3.0, dash]), PAINT_LIFT)


def _post(geometry: Geometry, layout: StreetLayout, post: Post, night: bool) -> None:
    road, section = layout.road, layout.section
    foot = road.points(post.station, post.offset, section.kerb_height - 0.3)
    yaw = road.heading(post.station)
    up = np.array([0, 0, 1.0])
    if post.kind == "lamp":
        top = foot + up * (post.height + 0.3)
        geometry.cylinder(POLE, foot, top, 0.09, 0.06)
        head = lamp_head(layout, post)
        geometry.cylinder(POLE, top, head, 0.04)
        glow = Material("lamp-lit", (1.0, 0.75, 0.45), emission=12.0)
        geometry.box(glow if night else POLE, head, (0.3, 0.55, 0.12), yaw)
    elif post.kind == "signal":
        geometry.cylinder(POLE, foot, foot + up * (post.height + 0.3), 0.06)
        head, towards = foot + up * (post.height - 0.3), np.array([np.cos(yaw), np.sin(yaw), 0])
        geometry.box(Material("signal-box", (0.02, 0.02, 0.02)), head, (0.24, 0.3, 0.95), yaw)
        lit = post.seed % 3
        for index, colour in enumerate(((1.0, 0.05, 0.03), (1.0, 0.55, 0.05), (0.05, 0.9, 0.45))):
            look = (
                Material(f"signal{index}", colour, emission=5.0)
                if index == lit
                else Material("signal-off", (0.05,) * 3)
            )
            geometry.box(look, head - 0.125 * towards + up * 0.3 * (1 - index), (0.02, 0.2, 0.2), yaw)
    elif post.kind == "sign":
        geometry.cylinder(POLE, foot, foot + up * 3.1, 0.03, sides=8)
        variant = post.seed % 12
        face = Material(f"sign{variant}", (1, 1, 1), ("sign", variant), roughness=0.5)
        angle = np.linspace(0, 2 * np.pi, 25)[:-1]
        across, along = np.array([np.sin(yaw), -np.cos(yaw), 0]), np.array([np.cos(yaw), np.sin(yaw), 0])
        if post.offset > 0:  # signs on the left face the other way
            across, along = -across, -along
        circle = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * up
        centre = foot + up * 2.85 - along * 0.045
        uv = np.stack([0.5 + 0.49 * np.cos(angle), 0.5 + 0.49 * np.sin(angle)], -1)
        geometry.polygon(face, centre + 0.32 * circle, uv)
        geometry.polygon(POLE, (centre + 0.32 * circle + along * 0.012)[::-1], uv)
    elif post.kind == "gantry":
        far = road.points(post.station, 0.0, 0.0)
        geometry.cylinder(POLE, foot, foot + up * post.height, 0.16)
        geometry.cylinder(POLE, far - up * 0.3, far + up * (post.height - 0.3), 0.16)
        geometry.cylinder(POLE, foot + up * (post.height - 0.2), far + up * (post.height - 0.5), 0.14)
        board = Material(f"board{post.seed % 4}", (1, 1, 1), ("signboard", post.seed % 4), roughness=0.5)
        width = 0.6 * abs(post.offset)
        middle = (foot + far) / 2 + up * (post.height - 0.6)
        right, back = np.array([np.sin(yaw), -np.cos(yaw), 0]), np.array([np.cos(yaw), np.sin(yaw), 0])
        geometry.box(POLE, middle, (0.05, width, 3.2), yaw)
        plate = [
            middle - 0.035 * back + x * width / 2 * right + z * 1.58 * up
            for x, z in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        geometry.quads(board, np.array(plate), np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float))


def lamp_head(layout: StreetLayout, post: Post) -> np.ndarray:
    """Where the lamp shines from: on an arm over the road."""
    side = np.sign(post.offset)
    return np.asarray(
        layout.road.points(post.station, post.offset - side * 1.7, layout.section.kerb_height + post.height + 0.15)
    )


def _barrier(geometry: Geometry, layout: StreetLayout, barrier: Barrier) -> None:
    road = layout.road
    base = layout.section.kerb_height if layout.section.pavement else 0.0
    a, b = road.points([barrier.start, barrier.end], barrier.offset, base)
    yaw, up = float(np.arctan2(b[1] - a[1], b[0] - a[0])), np.array([0.0, 0.0, 1.0])
    middle, length = (a + b) / 2, float(np.hypot(*(b - a)[:2]))
    if barrier.kind == "wall":
        variant = barrier.seed % 3
        wall = Material(f"brick{variant}", (1, 1, 1), ("brick", variant), 3.0, mottled=True)
        if barrier.seed % 2:
            wall = Material("garden-wall", (0.95, 0.93, 0.9), ("concrete", 1), 3.0, mottled=True)
        geometry.box(wall, middle + np.array([0, 0, 0.4]), (length, 0.24, 0.95), yaw)
    elif barrier.kind == "fence":
        colour = ((0.18, 0.11, 0.06), (0.6, 0.6, 0.58), (0.06, 0.12, 0.07))[barrier.seed % 3]
        wood = Material(f"fence{barrier.seed % 3}", colour)
        for fraction in np.arange(0.05, 1.0, 0.1):
            geometry.box(wood, a + (b - a) * fraction + np.array([0, 0, 0.5]), (0.11, 0.025, 1.1), yaw)
        for height in (0.25, 0.8):
            geometry.box(wood, middle + up * height, (length, 0.05, 0.08), yaw)
    elif barrier.kind == "rail":
        steel = Material("rail", (0.45, 0.46, 0.47), roughness=0.45, metallic=0.6)
        towards_road = -np.sign(barrier.offset) * np.array([-np.sin(yaw), np.cos(yaw), 0])
        geometry.box(steel, a + 0.2 * up, (0.1, 0.12, 1.1), yaw)
        for height, depth in ((0.55, 0.10), (0.67, 0.07), (0.79 - 0.07, 0.10)):
            geometry.box(steel, middle + towards_road * depth + up * height, (length, 0.04, 0.1), yaw)
    else:
        concrete = Material("median", (0.85, 0.85, 0.83), ("concrete", 2), 3.0, mottled=True)
        geometry.box(concrete, middle + 0.35 * up, (length, 0.28, 1.1), yaw)


def _horizon(geometry: Geometry, layout: StreetLayout, rng: np.random.Generator) -> None:
    """A ring of hills 600 m away."""
    variant = int(rng.integers(3))
    hills = Material(f"hills{variant}", (1, 1, 1), ("hills", variant), 120.0)
    angle = np.linspace(-np.pi, np.pi, 241)
    wave = sum(
        rng.uniform(0.3, 1.0) / k * np.sin(k * angle + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3, 5, 8, 13, 21)
    )
    tall = np.clip(10 + 9 * np.asarray(wave), 1.5, 60) * (1.1 if layout.style in ("city", "residential") else 2.0)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], -1)
    circle[-1] = circle[0]
    tall[-1] = tall[0]
    centre = np.array([100.0, 0.0, 0.0])
    foot = centre + 600 * circle + [0, 0, -8.0]
    crest = centre + 660 * circle + np.stack([0 * tall, 0 * tall, tall], -1)
    along = angle * 600
    uv = np.stack([np.stack([along, 0 * along], -1), np.stack([along, 60 + tall], -1)])
    geometry.grid(hills, np.stack([foot, crest])[:, ::-1], uv[:, ::-1])

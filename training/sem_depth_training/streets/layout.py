"""What stands where in a street, decided from a seed without a renderer; no two things take the same place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .models import BY_NAME, Kind, Model, models_of
from .road import CrossSection, Road, Style, sample_cross_section

PAINTS: tuple[tuple[float, float, float], ...] = (
    (0.75, 0.75, 0.75), (0.6, 0.61, 0.63), (0.02, 0.02, 0.022), (0.035, 0.036, 0.04), (0.1, 0.1, 0.11),
    (0.2, 0.21, 0.22), (0.33, 0.33, 0.34), (0.3, 0.015, 0.02), (0.015, 0.035, 0.14), (0.03, 0.09, 0.22),
    (0.42, 0.39, 0.3), (0.02, 0.07, 0.04), (0.12, 0.05, 0.03), (0.5, 0.2, 0.02),
)  # fmt: skip
LAND_REACH: dict[Style, float] = {
    "city": 60.0,
    "residential": 80.0,
    "country": 170.0,
    "highway": 170.0,
    "wooded": 130.0,
    "junction": 130.0,
}  # metres
STREET_TREES = ("Scopia/sycamoreMaple", "Scopia/poplar", "Scopia/ficusTree", "Scopia/copperBeech")
HEDGE, BUSH = BY_NAME["Scopia/hedgeTextured"], BY_NAME["Scopia/bush"]
DITCH = 0.25  # metres that land without a kerb lies below the road's edge
VEHICLES: tuple[Kind, ...] = ("car", "van", "heavy")
VEHICLE_GAP = 1.0  # least metres between bumpers of cars that drive or stand one behind the other


Point = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SolidBox:
    """Space a thing takes: a rectangle on the ground (turned by ``yaw``) from height ``bottom`` to ``top``, metres.

    Heights are above the road's axis at the same station, so that a slope does not matter.
    """

    centre: tuple[float, float]
    length: float
    width: float
    yaw: float
    bottom: float
    top: float

    def corners(self) -> npt.NDArray[np.float64]:
        """(4, 2), counter-clockwise."""
        along = np.array([np.cos(self.yaw), np.sin(self.yaw)]) * self.length / 2
        across = np.array([-np.sin(self.yaw), np.cos(self.yaw)]) * self.width / 2
        return np.asarray(self.centre) + np.stack([along + across, across - along, -along - across, along - across])

    def overlaps(self, other: SolidBox) -> bool:
        """True where the two share volume (separating axis test on the ground, intervals in height)."""
        if self.bottom >= other.top or other.bottom >= self.top:
            return False
        reach = (np.hypot(self.length, self.width) + np.hypot(other.length, other.width)) / 2
        if np.hypot(self.centre[0] - other.centre[0], self.centre[1] - other.centre[1]) >= reach:
            return False
        mine, theirs = self.corners(), other.corners()
        for yaw in (self.yaw, other.yaw):
            for axis in (np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])):
                a, b = mine @ axis, theirs @ axis
                if a.max() <= b.min() or b.max() <= a.min():
                    return False
        return True


class Occupancy:
    """The boxes that are taken so far, in square cells of the ground so that asking stays quick."""

    CELL = 8.0

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], list[SolidBox]] = defaultdict(list)

    def _cells_of(self, box: SolidBox) -> list[tuple[int, int]]:
        corners = box.corners()
        (x0, y0), (x1, y1) = (np.floor(edge / self.CELL).astype(int) for edge in (corners.min(0), corners.max(0)))
        return [(x, y) for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)]

    def claim(self, boxes: Sequence[SolidBox]) -> bool:
        """Take the place of all boxes if it is free; False, and nothing taken, if it is not."""
        cells = [(box, self._cells_of(box)) for box in boxes]
        if any(taken.overlaps(box) for box, places in cells for place in places for taken in self._cells[place]):
            return False
        for box, places in cells:
            for place in places:
                self._cells[place].append(box)
        return True


@dataclass(frozen=True)
class PlacedModel:
    """A model in the street; a vehicle moves along its lane at ``speed`` (m/s, signed along the stations)."""

    model: Model
    station: float
    offset: float
    height: float
    turn: float  # yaw relative to the road's heading
    scale: float = 1.0
    paint: tuple[float, float, float] | None = None
    speed: float = 0.0

    def station_at(self, time: float) -> float:
        return self.station + self.speed * time


@dataclass(frozen=True)
class Building:
    """A house: ``corner`` is the ground point at the left end of its front, seen from the street."""

    corner: tuple[float, float, float]
    yaw: float  # direction along the front, left to right seen from the street
    width: float
    depth: float
    storeys: int
    storey_height: float
    seed: int

    @property
    def height(self) -> float:
        return self.storey_height * (self.storeys + 0.15) + 0.5


@dataclass(frozen=True)
class Post:
    """Something on a thin pole: a lamp, a sign or a wire pole."""

    kind: str
    station: float
    offset: float
    height: float
    seed: int


@dataclass(frozen=True)
class Barrier:
    """A straight piece of garden wall, fence, guard rail or median wall between two stations at one offset."""

    kind: str
    start: float
    end: float
    offset: float
    height: float
    seed: int


@dataclass(frozen=True)
class SideStreet:
    """A street across this one, level with it, its axis at ``station``: ``reach`` metres to both sides."""

    station: float
    half_width: float
    reach: float = 70.0


@dataclass
class StreetLayout:
    """Everything in one street. ``ego_lane`` is the lane of the camera."""

    seed: int
    style: Style
    road: Road
    section: CrossSection
    ego_lane: int
    models: list[PlacedModel] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    barriers: list[Barrier] = field(default_factory=list)
    crossings: list[float] = field(default_factory=list)  # stations where zebra crossings begin, 4 m long
    side_streets: list[SideStreet] = field(default_factory=list)
    terrain: float = 0.0  # height of the land's waves, metres

    @property
    def ego_offset(self) -> float:
        return self.section.lane_offset(self.ego_lane)

    def land_height(self, station: npt.ArrayLike, offset: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Height of the land beyond the edge over the edge itself, metres: waves that grow with the distance."""
        station, offset = np.broadcast_arrays(np.asarray(station, float), np.asarray(offset, float))
        beyond = np.clip(np.abs(offset) - self.section.edge, 0.0, None)
        height = np.zeros(beyond.shape) if self.section.pavement else -DITCH * np.clip(beyond / 1.5, 0.0, 1.0)
        for side in (-1, 1):
            rng = np.random.default_rng([self.seed, side + 1, 0x1A4D])
            length, phase = rng.uniform([40, 80, 150], [80, 150, 300]), rng.uniform(0, 2 * np.pi, 3)
            waves = 0.5 + np.sin(2 * np.pi * station[..., None] / length + phase).sum(-1) / 6
            there = np.sign(offset) == side
            height = height + there * self.terrain * waves * (beyond / LAND_REACH[self.style]) ** 1.3
        return height

    def present(self, time: float = 0.0) -> list[PlacedModel]:
        """The models in the street at ``time``: a vehicle that has driven off either end is gone."""
        first, last = self.road.start + 1, self.road.end - 12
        return [m for m in self.models if not m.speed or first < m.station_at(time) < last]

    def pose(self, placed: PlacedModel, time: float = 0.0) -> npt.NDArray[np.float64]:
        """World from model, (4, 4), at ``time`` seconds; rests on the road's slope."""
        station = placed.station_at(time)
        yaw, pitch = self.road.heading(station), -self.road.grade(station)
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        ct, st = np.cos(placed.turn), np.sin(placed.turn)
        road = np.array([[cy * cp, -sy, cy * sp], [sy * cp, cy, sy * sp], [-sp, 0, cp]])
        pose = np.eye(4)
        pose[:3, :3] = road @ np.array([[ct, -st, 0], [st, ct, 0], [0, 0, 1]]) * placed.scale
        pose[:3, 3] = self.road.points(station, placed.offset, placed.height)
        return pose

    def solids(self, time: float = 0.0) -> list[SolidBox]:
        """The place everything takes at ``time`` seconds (zebra crossings and other paint take none)."""
        return [
            *(box for placed in self.present(time) for box in model_boxes(self.road, placed, time)),
            *(building_box(building) for building in self.buildings),
            *(post_box(self.road, post) for post in self.posts),
            *(barrier_box(self.road, barrier) for barrier in self.barriers),
        ]


def model_boxes(road: Road, placed: PlacedModel, time: float = 0.0) -> list[SolidBox]:
    """One box; a tree has two: the trunk, and above it the crown (its box taken at 80 % for the round shape)."""
    station = placed.station_at(time)
    x, y, _ = road.points(station, placed.offset)
    yaw = road.heading(station) + placed.turn
    model, scale, bottom = placed.model, placed.scale, placed.height
    length, width, height = model.length * scale, model.width * scale, model.height * scale
    if model.kind != "tree":
        return [SolidBox((x, y), length, width, yaw, bottom, bottom + height)]
    branch = bottom + height * model.crown_base
    return [
        SolidBox((x, y), 0.5, 0.5, yaw, bottom, branch),
        SolidBox((x, y), 0.8 * length, 0.8 * width, yaw, branch, bottom + height),
    ]


def building_box(building: Building) -> SolidBox:
    """The walls; sills, balconies, awnings and eaves reach up to 0.6 m beyond them."""
    front = np.array([np.cos(building.yaw), np.sin(building.yaw)])
    inwards = np.array([-front[1], front[0]])
    x, y = np.array(building.corner[:2]) + front * building.width / 2 + inwards * building.depth / 2
    return SolidBox((x, y), building.width, building.depth, building.yaw, 0.0, building.height + 6.0)


def post_box(road: Road, post: Post) -> SolidBox:
    x, y, _ = road.points(post.station, post.offset)
    size = 0.7 if post.kind == "sign" else 0.3
    return SolidBox((x, y), size, size, road.heading(post.station), 0.0, post.height)


def barrier_box(road: Road, barrier: Barrier) -> SolidBox:
    a, b = road.points([barrier.start, barrier.end], barrier.offset)
    yaw = float(np.arctan2(b[1] - a[1], b[0] - a[0]))
    middle = (a + b) / 2
    return SolidBox((middle[0], middle[1]), float(np.hypot(*(b - a)[:2])) - 0.02, 0.3, yaw, 0.0, barrier.height)


def make_layout(
    seed: int,
    style: Style,
    *,
    length: float = 230.0,
    ego_stations: Sequence[float] = (0.0,),
    ego_speed: float = 0.0,
    curvature: float | None = None,
) -> StreetLayout:
    """Plan a street from a seed.

    ``ego_stations`` are places of the camera's car at time 0 that stay free with room ahead, but for traffic across at
    a junction, which may pass close before it. With ``ego_speed`` (m/s) traffic moves: everything in one lane at one
    speed, the ego lane at the ego's, so nobody runs into anybody.
    """
    return _Planner(seed, style, length, ego_stations, ego_speed, curvature).plan()


class _Planner:
    def __init__(
        self,
        seed: int,
        style: Style,
        length: float,
        ego_stations: Sequence[float],
        ego_speed: float,
        curvature: float | None,
    ) -> None:
        self.rng = rng = np.random.default_rng([seed, 0x57EE7])
        self.ego_stations, self.ego_speed = ego_stations, ego_speed
        if curvature is None:
            sharpest = {
                "city": 1 / 110,
                "residential": 1 / 90,
                "country": 1 / 130,
                "highway": 1 / 500,
                "wooded": 1 / 150,
                "junction": 1 / 300,
            }[style]
            curvature = rng.uniform(-sharpest, sharpest) if rng.random() < 0.5 else 0.0
        grade = rng.uniform(-0.04, 0.04) if rng.random() < 0.6 else 0.0
        road = Road(-40.0, length, curvature, grade)
        section = sample_cross_section(style, rng)
        own_lanes = section.lanes // 2
        lane = int(rng.integers(own_lanes))
        self.layout = StreetLayout(seed, style, road, section, lane)
        self.taken = Occupancy()

    def plan(self) -> StreetLayout:
        style, layout = self.layout.style, self.layout
        if style in ("city", "residential"):
            layout.crossings = self._crossings()
            self._buildings()
            self._close_the_end()
            self._lamps()
            self._trees_along_pavement()
            if style == "residential":
                self._garden_edges()
            self._signs()
            self._parked_cars()
            self._traffic()
            self._people()
            self._furniture()
        elif style == "junction":
            self._side_streets()
            self._signals()
            if self.rng.random() < 0.6:
                self._lamps()
            self._signs()
            self._traffic()
            self._roadsides()
        elif style == "wooded":
            layout.terrain = self.rng.uniform(0.2, 12.0)
            if self.rng.random() < 0.5:
                self._lamps()
            self._signs()
            self._traffic()
            if layout.section.pavement:
                self._people()
            self._roadsides()
        else:
            layout.terrain = self.rng.uniform(0.5, 5.0)
            self._guard_rails()
            if style == "highway" or self.rng.random() < 0.4:
                self._lamps()
            self._signs()
            self._traffic()
            self._scattered_trees()
        if self.ego_speed:
            self._clear_the_way()
        return layout

    # --- placing ----------------------------------------------------------------------------------------------------

    def _place(self, placed: PlacedModel) -> bool:
        size = max(placed.model.length, placed.model.width) * placed.scale
        if placed.model.kind not in VEHICLES and self._on_side_street(placed.station, 0.4 * size):
            return False
        if not self.taken.claim(model_boxes(self.layout.road, placed)):
            return False
        self.layout.models.append(placed)
        return True

    def _place_post(self, post: Post) -> None:
        if not self._on_side_street(post.station, 0.0) and self.taken.claim([post_box(self.layout.road, post)]):
            self.layout.posts.append(post)

    def _place_barrier(self, barrier: Barrier) -> None:
        if self.taken.claim([barrier_box(self.layout.road, barrier)]):
            self.layout.barriers.append(barrier)

    def _place_building(self, building: Building) -> bool:
        if not self.taken.claim([building_box(building)]):
            return False
        self.layout.buildings.append(building)
        return True

    def _seed(self) -> int:
        return int(self.rng.integers(1 << 31))

    def _on_crossing(self, station: float, margin: float) -> bool:
        return any(start - margin < station < start + 4 + margin for start in self.layout.crossings)

    def _on_side_street(self, station: float, margin: float) -> bool:
        return any(abs(station - side.station) < side.half_width + margin for side in self.layout.side_streets)

    def _side_streets(self) -> None:
        """Two junctions, in sight of the usual places of the camera and not at them, and what is at their corners."""
        rng, section = self.rng, self.layout.section
        for nearest, farthest in ((27.0, 40.0), (127.0, 145.0)):
            lanes, lane_width = int(rng.choice([1, 1, 2])), rng.uniform(2.9, 3.5)  # lanes in each direction
            street = SideStreet(rng.uniform(nearest, farthest), lanes * lane_width + 0.4)
            self.layout.side_streets.append(street)
            if rng.random() < 0.5:
                self.layout.crossings.append(street.station - street.half_width - 6.0)
            if not self.ego_speed:  # nobody crosses moving traffic
                self._traffic_across(street, lanes, lane_width)
            for side in (-1, 1):
                if rng.random() < 0.5:  # a house at the corner
                    start = street.station + street.half_width + rng.uniform(2, 6)
                    self._detached_houses(start, start + 30, side, section.edge + rng.uniform(3, 12))

    def _traffic_across(self, street: SideStreet, lanes: int, lane_width: float) -> None:
        gap = self.rng.uniform(8, 30)
        for lane in range(2 * lanes):
            turn = -np.pi / 2 if lane < lanes else np.pi / 2  # traffic keeps right
            offset, station = -street.reach + 3, street.station + lane_width * (lane - lanes + 0.5)
            while offset < street.reach - 8:
                model = self._vehicle(0.2, lane_width - 0.1)
                middle = offset + model.length / 2
                self._place(PlacedModel(model, station, middle, 0.0, turn, 1.0, self._paint()))
                offset += model.length + VEHICLE_GAP + self.rng.exponential(gap)

    def _signals(self) -> None:
        half, rng = self.layout.section.half_width, self.rng
        for street in self.layout.side_streets:
            if rng.random() < 0.7:
                for side in (-1, 1):
                    for place in (-1, 1):
                        station = street.station + place * (street.half_width + 1.0)
                        self._place_post(Post("signal", station, side * (half + 1.0), 3.6, self._seed()))

    def _crossings(self) -> list[float]:
        stations = sorted(float(round(s)) for s in self.rng.uniform(8, 150, self.rng.integers(0, 3)))
        return [s for i, s in enumerate(stations) if i == 0 or s - stations[i - 1] > 25]

    # --- what stands beside the street ------------------------------------------------------------------------------

    def _buildings(self) -> None:
        road, section, rng, city = self.layout.road, self.layout.section, self.rng, self.layout.style == "city"
        for side in (-1, 1):
            station = road.start + rng.uniform(0, 8)
            while station < road.end - 12:
                width = rng.uniform(9, 24) if city else rng.uniform(8, 14)
                offset = side * (section.edge + section.setback + (rng.uniform(0, 0.6) if not city else 0.0))
                left, right, yaw = self._front(station, width, offset, section.kerb_height)
                storeys = int(rng.integers(3, 7)) if city else int(rng.integers(2, 4))
                depth, storey, seed = rng.uniform(9, 13), rng.uniform(2.8, 3.4), self._seed()
                for shrunk in (depth, 0.7 * depth, 0.45 * depth):
                    floor = float(min(left[2], right[2]))
                    front = float(np.hypot(*(right - left)[:2])) - 0.02
                    house = Building((left[0], left[1], floor), yaw, front, shrunk, storeys, storey, seed)
                    if self._place_building(house):
                        break
                station += width
                if not (city and rng.random() < 0.8):
                    station += rng.uniform(2.5, 10.0)

    def _front(self, station: float, width: float, offset: float, height: float) -> tuple[Point, Point, float]:
        """Ground points at the left and right end of a house's front, seen from the street, and its yaw."""
        left, right = self.layout.road.points([station, station + width], offset, height)[:: 1 if offset > 0 else -1]
        return left, right, float(np.arctan2(right[1] - left[1], right[0] - left[0]))

    def _close_the_end(self) -> None:
        """A house across the end, as at a T-junction, so that a straight street does not end in nothing."""
        road = self.layout.road
        left, right = road.points(road.end, [20.0, -20.0], 0.0)
        yaw = float(np.arctan2(right[1] - left[1], right[0] - left[0]))
        house = Building(tuple(left), yaw, 40.0, 10.0, int(self.rng.integers(3, 6)), 3.1, self._seed())
        self._place_building(house)

    def _lamps(self) -> None:
        road, section, rng = self.layout.road, self.layout.section, self.rng
        sides = (-1, 1) if rng.random() < 0.5 else (int(rng.choice([-1, 1])),)
        height, spacing = rng.uniform(6, 9), rng.uniform(22, 34)
        for side in sides:
            beyond = 0.6 if section.pavement else 1.8
            for station in np.arange(road.start + rng.uniform(2, 12), road.end - 10, spacing):
                offset = side * (section.half_width + beyond)
                self._place_post(Post("lamp", float(station), offset, height, self._seed()))

    def _signs(self) -> None:
        road, section, rng = self.layout.road, self.layout.section, self.rng
        beyond = 0.45 if section.pavement else 2.2
        for _ in range(rng.integers(2, 8)):
            station, side = rng.uniform(5, min(160.0, road.end - 10)), int(rng.choice([-1, 1]))
            self._place_post(Post("sign", station, side * (section.half_width + beyond), 2.85, self._seed()))
        if self.layout.style == "highway" and rng.random() < 0.7:
            self._place_post(Post("gantry", rng.uniform(40, 120), -(section.half_width + 2.0), 7.5, self._seed()))

    def _tree(self, station: float, offset: float, scale: float, names: Sequence[str] | None = None) -> None:
        species = [BY_NAME[name] for name in names] if names else models_of("tree")
        model = species[self.rng.integers(len(species))]
        turn = self.rng.uniform(0, 2 * np.pi)
        height = self._foot(station, offset)
        for shrink in (1.0, 0.75, 0.55):  # a crown that would grow into a house is pruned
            tree = PlacedModel(model, station, offset, height, turn, scale * shrink)
            if not self._hangs_low(tree) and self._place(tree):
                return

    def _hangs_low(self, tree: PlacedModel) -> bool:
        """True where leaves would be in the way on the road, of the styles whose trees stand that close."""
        model, reach = tree.model, 0.4 * max(tree.model.length, tree.model.width) * tree.scale
        if self.layout.style not in ("wooded", "junction") or abs(tree.offset) - reach > self.layout.section.half_width:
            return False
        return model.crown_base * model.height * tree.scale < 3.0

    def _trees_along_pavement(self) -> None:
        road, section, rng = self.layout.road, self.layout.section, self.rng
        if self.layout.style == "city":
            if rng.random() < 0.65:
                spacing, names = rng.uniform(9, 18), [STREET_TREES[rng.integers(len(STREET_TREES))]]
                for side in (-1, 1):
                    for station in np.arange(road.start + rng.uniform(2, 12), min(road.end, 220.0), spacing):
                        if rng.random() < 0.85 and not self._on_crossing(station, 2.0):
                            self._tree(station, side * (section.half_width + 0.9), rng.uniform(0.6, 0.85), names)
            return
        for side in (-1, 1):
            for station in np.arange(road.start + rng.uniform(2, 10), min(road.end, 200.0), rng.uniform(6, 11)):
                if rng.random() < 0.6:
                    offset = side * (section.edge + rng.uniform(1.0, max(1.1, section.setback - 1.0)))
                    self._tree(station, offset, rng.uniform(0.4, 0.8))

    def _scattered_trees(self) -> None:
        road, section, rng = self.layout.road, self.layout.section, self.rng
        for side in (-1, 1):
            for _ in range(rng.integers(15, 60)):
                self._tree(
                    rng.uniform(-20, road.end - 10),
                    side * (section.half_width + rng.uniform(4, 60)),
                    rng.uniform(0.6, 1.5),
                )
            for _ in range(rng.integers(0, 15)):
                self._bush(rng.uniform(0, 120), side * (section.half_width + rng.uniform(2.5, 12)), 1.6)

    def _roadsides(self) -> None:
        """Stretches of wood, hedge, tree rows and field, on each side its own; behind all of it a wood's edge."""
        road, section, rng = self.layout.road, self.layout.section, self.rng
        for side in (-1, 1):
            station = road.start
            while station < road.end - 15:
                end = min(station + rng.uniform(12, 70), road.end - 10)
                near = section.edge + rng.uniform(0.8, 7.0)
                kind = rng.choice(["wood", "hedge", "row", "houses", "field"], p=[0.4, 0.18, 0.2, 0.1, 0.12])
                if kind == "wood":
                    self._wood(station, end, side, near, rng.uniform(2, 9))
                elif kind == "hedge":
                    self._hedge(station, end, side * near, rng.uniform(1.0, 2.4))
                    if rng.random() < 0.6:
                        self._wood(station, end, side, near + 2.0, rng.uniform(2, 6))
                elif kind == "row":
                    names, scale = [str(rng.choice([*STREET_TREES, "Scopia/acacia"]))], rng.uniform(0.7, 1.3)
                    for place in np.arange(station, end, rng.uniform(5, 11)):
                        self._tree(place, side * (section.edge + rng.uniform(1.0, 1.6)), scale, names)
                    if rng.random() < 0.5:
                        self._wood(station, end, side, near + 5.0, rng.uniform(2, 6))
                elif kind == "houses":
                    self._detached_houses(station, end, side, near + 5)
                station = end + rng.uniform(0, 6)
            self._wood(road.start, road.end - 10, side, section.edge + rng.uniform(18, 80), 5.0)

    def _wood(self, start: float, end: float, side: int, near: float, depth: float) -> None:
        """From ``near`` metres off the axis on bushes, a thicket that nobody sees through, and trees as close as their
        crowns allow."""
        rng = self.rng
        for station in np.arange(start, end, 1.3):
            self._bush(station + rng.uniform(-0.5, 0.5), side * (near + rng.uniform(0, 1.6)), 2.2)
        station = start
        while station < end:
            scale = rng.uniform(1.8, 4.5)
            self._hedge_piece(station, side * (near + 2.0 + 0.3 * scale + rng.uniform(0, 1.0)), scale)
            station += HEDGE.width * scale
        for row in np.arange(near + 5.5, near + 5.6 + depth, 3.5):
            for station in np.arange(start, end, 2.5):
                self._tree(station + rng.uniform(-1.2, 1.2), side * (row + rng.uniform(-1, 1)), rng.uniform(0.6, 1.7))
        for _ in range(int((end - start) / 15)):  # and some before the rest
            self._tree(rng.uniform(start, end), side * (near + rng.uniform(-0.5, 1.5)), rng.uniform(0.5, 1.2))

    def _bush(self, station: float, offset: float, largest: float) -> None:
        turn, scale = self.rng.uniform(0, 6.28), self.rng.uniform(0.6, largest)
        self._place(PlacedModel(BUSH, station, offset, self._foot(station, offset), turn, scale))

    def _hedge(self, start: float, end: float, offset: float, scale: float) -> None:
        for middle in np.arange(start, end, HEDGE.width * scale * 1.01):
            self._hedge_piece(middle, offset, scale)

    def _hedge_piece(self, station: float, offset: float, scale: float) -> None:
        self._place(PlacedModel(HEDGE, station, offset, self._foot(station, offset), np.pi / 2, scale))

    def _foot(self, station: float, offset: float) -> float:
        """The height at which plants stand: a little in the ground."""
        return self.layout.section.kerb_height + float(self.layout.land_height(station, offset)) - 0.05

    def _detached_houses(self, start: float, end: float, side: int, offset: float) -> None:
        rng = self.rng
        for station in np.arange(start, end - 12, rng.uniform(18, 30)):
            width = rng.uniform(8, 13)
            if self._on_side_street(station + width / 2, width / 2 + 1):
                continue
            floor = float(self.layout.land_height(station + width / 2, side * offset)) + 0.1
            left, right, yaw = self._front(station, width, side * offset, floor)
            corner = (float(left[0]), float(left[1]), float(min(left[2], right[2])))
            self._place_building(
                Building(
                    corner, yaw, width, rng.uniform(8, 12), int(rng.integers(2, 4)), rng.uniform(2.8, 3.3), self._seed()
                )
            )

    def _garden_edges(self) -> None:
        road, section, rng = self.layout.road, self.layout.section, self.rng
        for side in (-1, 1):
            station, offset = road.start + 5.0, side * (section.edge + 0.35)
            while station < min(road.end - 20, 160.0):
                length, kind = (
                    rng.uniform(4, 14),
                    rng.choice(["hedge", "wall", "fence", "open"], p=[0.35, 0.25, 0.2, 0.2]),
                )
                if kind == "hedge":
                    scale = rng.uniform(0.95, 1.3)
                    for middle in np.arange(station, station + length, HEDGE.width * scale * 1.02):
                        self._place(PlacedModel(HEDGE, middle, offset, section.kerb_height, 0.0, scale))
                elif kind != "open":
                    seed = self._seed()
                    for start in np.arange(station, station + length, 2.0):
                        height = section.kerb_height + (0.95 if kind == "wall" else 1.1)
                        self._place_barrier(Barrier(str(kind), start, start + 2.0, offset, height, seed))
                station += length + rng.uniform(1.5, 5.0)

    def _guard_rails(self) -> None:
        road, section, rng = self.layout.road, self.layout.section, self.rng
        for side in (-1, 1):
            if rng.random() < 0.6 or self.layout.style == "highway":
                for start in np.arange(road.start, road.end - 2.0, 2.0):
                    self._place_barrier(Barrier("rail", start, start + 2.0, side * (section.half_width + 0.7), 0.8, 0))
        if section.median:
            for start in np.arange(road.start, road.end - 2.0, 2.0):
                self._place_barrier(Barrier("median", start, start + 2.0, 0.0, 0.9, 0))

    # --- what moves or could move -----------------------------------------------------------------------------------

    def _vehicle(self, heavy: float, widest: float) -> Model:
        """A vehicle that fits a lane or strip of ``widest`` metres; ``heavy``: share of vans, lorries and buses."""
        dice = self.rng.random()
        kind: Kind = "heavy" if dice < heavy / 2 else "van" if dice < heavy else "car"
        choice = [model for model in models_of(kind) if model.width < widest] or models_of("car")
        return choice[self.rng.integers(len(choice))]

    def _paint(self) -> tuple[float, float, float]:
        return PAINTS[self.rng.integers(len(PAINTS))]

    def _parked_cars(self) -> None:
        road, section, rng = self.layout.road, self.layout.section, self.rng
        if not section.parking:
            return
        for side in (-1, 1):
            density = rng.uniform(0.3, 0.95)
            station = road.start + rng.uniform(3, 8)
            while station < min(road.end - 15, 250.0):
                model = self._vehicle(heavy=0.0, widest=section.parking - 0.05)
                middle = station + model.length / 2
                if rng.random() < density and not self._on_crossing(middle, 5.0):
                    offset = side * (section.half_width - section.parking / 2)
                    forward = (side < 0) == (rng.random() < 0.92)
                    askew = (section.parking - model.width) / model.length / 1.2
                    turn = (0.0 if forward else np.pi) + rng.uniform(-askew, askew)
                    self._place(PlacedModel(model, middle, offset, 0.0, turn, 1.0, self._paint()))
                    station += model.length + rng.uniform(0.7, 1.8)
                else:
                    station += rng.uniform(3, 8)

    def _traffic(self) -> None:
        layout, rng = self.layout, self.rng
        section, highway = layout.section, layout.style == "highway"
        for lane in range(section.lanes):
            direction = section.lane_direction(lane)
            speed = direction * (self.ego_speed if lane == layout.ego_lane else self.ego_speed * rng.uniform(0.8, 1.3))
            gap = rng.uniform(18, 50) if highway else rng.uniform(14, 60)
            free = [(s - 14.0, s + rng.uniform(10, 45)) for s in self.ego_stations] if lane == layout.ego_lane else []
            station = layout.road.start + rng.uniform(2, 15)
            while station < layout.road.end - 15:
                model = self._vehicle(0.3 if highway else 0.14, section.lane_width - 0.1)
                sway = min((section.lane_width - model.width) / 2, 0.25)
                middle = station + model.length / 2
                blocked = any(a < middle + model.length / 2 and middle - model.length / 2 < b for a, b in free)
                if not blocked:
                    placed = PlacedModel(
                        model,
                        middle,
                        section.lane_offset(lane) + rng.uniform(-sway, sway),
                        0.0,
                        (0.0 if direction > 0 else np.pi),
                        1.0,
                        self._paint(),
                        speed,
                    )
                    self._place(placed)
                station += model.length + VEHICLE_GAP + 3.0 + rng.exponential(gap)

    def _clear_the_way(self, seconds: float = 8.0) -> None:
        """Leave out what would touch something while driving: a long bus swings out of its lane in a curve."""
        layout = self.layout
        for time in np.arange(0.0, seconds, 0.5):
            boxes = {box: placed for placed in layout.present(time) for box in model_boxes(layout.road, placed, time)}
            for pair in all_overlaps(layout.solids(time)):
                moving = next(boxes[box] for box in pair if box in boxes and boxes[box].speed)
                if moving in layout.models:
                    layout.models.remove(moving)

    def _people(self) -> None:
        layout, rng = self.layout, self.rng
        section, people = layout.section, models_of("person")
        count = rng.integers(4, 24) if layout.style == "city" else rng.integers(0, 8)
        for _ in range(count):
            side, person = int(rng.choice([-1, 1])), people[rng.integers(len(people))]
            offset = side * (section.half_width + rng.uniform(0.4, section.pavement - 0.3))
            turn = rng.choice([0.0, np.pi]) + rng.normal(0, 0.5)
            self._place(
                PlacedModel(person, rng.uniform(4, 90), offset, section.kerb_height, turn, rng.uniform(0.94, 1.05))
            )
        if self.ego_speed:
            return  # nobody stands on the road of moving traffic
        for start in layout.crossings:
            for _ in range(rng.integers(0, 4)):
                person, turn = people[rng.integers(len(people))], rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.3)
                offset = rng.uniform(-section.half_width + 0.4, section.half_width - 0.4)
                if all(abs(start - s) > 6 for s in self.ego_stations):
                    self._place(PlacedModel(person, start + rng.uniform(0.7, 3.3), offset, 0.0, turn))

    def _furniture(self) -> None:
        layout, rng = self.layout, self.rng
        section = layout.section
        things = [model for model in models_of("furniture") if model is not BUSH] + models_of("cycle")
        for _ in range(rng.integers(3, 14)):
            model, side = things[rng.integers(len(things))], int(rng.choice([-1, 1]))
            turn = np.pi / 2 * side if model.kind == "furniture" else rng.normal(0, 0.3)
            depth = max(model.length, model.width) / 2
            low, high = section.half_width + 0.15 + depth / 2, section.edge - depth / 2
            if low < high:
                offset = side * rng.uniform(low, high)
                self._place(PlacedModel(model, rng.uniform(3, 90), offset, section.kerb_height, turn))


def all_overlaps(boxes: Sequence[SolidBox]) -> list[tuple[SolidBox, SolidBox]]:
    """Every pair that shares volume."""
    corners = np.array([box.corners() for box in boxes])
    low, high = corners.min(1), corners.max(1)
    near = ((low[:, None] < high[None]) & (low[None] < high[:, None])).all(-1)
    return [(boxes[i], boxes[j]) for i, j in np.argwhere(np.triu(near, 1)) if boxes[i].overlaps(boxes[j])]

"""A street's centre line and its cross-section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Style = Literal["city", "residential", "country", "highway", "wooded", "junction"]
STYLES: tuple[Style, ...] = ("city", "residential", "country", "highway", "wooded", "junction")
STATION_STEP = 1.0  # metres between stations of everything that follows the road


class Road:
    """Centre line that bends into one curve: positions by station s (metres along) and offset d (metres left)."""

    def __init__(self, start: float, end: float, curvature: float, grade: float) -> None:
        self.start, self.end = start, end
        self.stations = np.arange(start, end + STATION_STEP / 2, STATION_STEP)
        # Straight at the start, then a clothoid into the curve: nobody's street bends at once.
        ramp = np.clip((self.stations - 15.0) / 40.0, 0.0, 1.0)
        self._heading = np.cumsum(curvature * ramp) * STATION_STEP
        self._heading -= np.interp(0.0, self.stations, self._heading)
        self._x = np.cumsum(np.cos(self._heading)) * STATION_STEP
        self._y = np.cumsum(np.sin(self._heading)) * STATION_STEP
        self._x -= np.interp(0.0, self.stations, self._x)
        self._y -= np.interp(0.0, self.stations, self._y)
        self._z = np.cumsum(grade * np.clip((self.stations - 20.0) / 60.0, 0.0, 1.0)) * STATION_STEP
        self._z -= np.interp(0.0, self.stations, self._z)

    def heading(self, station: float) -> float:
        """Yaw of the road, radians, 0 at station 0."""
        return float(np.interp(station, self.stations, self._heading))

    def grade(self, station: float) -> float:
        """Slope angle upwards along the road, radians."""
        rise = np.interp(station + 0.5, self.stations, self._z) - np.interp(station - 0.5, self.stations, self._z)
        return float(np.arctan(rise))

    def points(self, station: npt.ArrayLike, offset: npt.ArrayLike, height: npt.ArrayLike = 0.0) -> npt.NDArray[Any]:
        """World points for broadcast station, offset to the left and height above the road's axis; (..., 3)."""
        s, d, h = np.broadcast_arrays(np.asarray(station, float), np.asarray(offset, float), np.asarray(height, float))
        yaw = np.interp(s, self.stations, self._heading)
        x = np.interp(s, self.stations, self._x) - d * np.sin(yaw)
        y = np.interp(s, self.stations, self._y) + d * np.cos(yaw)
        return np.stack([x, y, np.interp(s, self.stations, self._z) + h], -1)


@dataclass(frozen=True)
class CrossSection:
    """Widths in metres; the same on both sides. Lanes are numbered from the right, traffic keeps right."""

    lanes: int
    lane_width: float
    parking: float  # width of the parking strip or hard shoulder, 0 without
    pavement: float  # 0 without kerb and pavement
    setback: float  # from the pavement's outer edge to the facades
    median: float  # between the two directions

    @property
    def half_width(self) -> float:
        """From the axis to the kerb."""
        return self.lanes * self.lane_width / 2 + self.parking + self.median / 2

    @property
    def kerb_height(self) -> float:
        return 0.12 if self.pavement else 0.0

    @property
    def edge(self) -> float:
        """From the axis to the outer edge of the pavement."""
        return self.half_width + self.pavement

    def lane_offset(self, lane: int) -> float:
        """Offset of a lane's middle, to the left; lane 0 is the rightmost one of our direction."""
        offset = -self.half_width + self.parking + self.lane_width * (lane + 0.5)
        return offset if lane < self.lanes // 2 else offset + self.median

    def lane_direction(self, lane: int) -> int:
        """+1 along the stations, -1 against."""
        return 1 if lane < self.lanes // 2 or self.lanes == 1 else -1


def sample_cross_section(style: Style, rng: np.random.Generator) -> CrossSection:
    if style == "city":
        lanes = int(rng.choice([2, 2, 2, 4]))
        parking = 2.2 if rng.random() < 0.8 else 0.0
        return CrossSection(lanes, rng.uniform(2.9, 3.4), parking, rng.uniform(2.4, 4.5), 0.0, 0.0)
    if style == "residential":
        parking = 2.1 if rng.random() < 0.5 else 0.0
        return CrossSection(2, rng.uniform(2.6, 3.1), parking, rng.uniform(1.4, 2.4), rng.uniform(3.0, 7.0), 0.0)
    if style == "country":
        return CrossSection(2, rng.uniform(2.8, 3.4), 0.0, 0.0, 0.0, 0.0)
    if style == "wooded":
        pavement = rng.uniform(1.5, 2.8) if rng.random() < 0.6 else 0.0
        return CrossSection(int(rng.choice([2, 2, 4])), rng.uniform(2.9, 3.6), 0.0, pavement, 0.0, 0.0)
    if style == "junction":  # no kerb, so that the side street joins on one level
        return CrossSection(int(rng.choice([2, 2, 4])), rng.uniform(2.9, 3.6), 0.0, 0.0, 0.0, 0.0)
    return CrossSection(int(rng.choice([4, 6])), 3.6, 2.5, 0.0, 0.0, 3.0)

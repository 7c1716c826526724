"""One training frame: what it shows, by seed, and the files it becomes."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..whole_file import write_whole
from .layout import StreetLayout, make_layout
from .road import STYLES, Style
from .views import View, sample_view
from .weather import Weather, sample_weather

VIEWS_PER_STREET = 3  # far enough apart to share little; building a street costs as much as a picture
# Woods and junctions only where they are asked for, so that frames of a seed stay the pictures they were.
STYLE_SHARES = (0.38, 0.30, 0.17, 0.15, 0.0, 0.0)
COLUMNS = (
    "split", "sequence", "camera", "image", "depth", "fx", "fy", "cx", "cy", "width", "height", "gt_kind", "licence",
    "sky",
)  # fmt: skip
LICENCE = "CC0 1.0 (rendered; models CC BY 3.0 and CC0, see ATTRIBUTION.txt)"
DEPTH_SCALE = 256  # counts of the 16-bit PNG a metre, as KITTI has it
MAX_DEPTH = 255.0  # metres; what is farther, and the sky, is 0


@dataclass(frozen=True)
class StreetPlan:
    """One street under one weather, seen from several ``stations``."""

    seed: int
    style: Style
    weather: Weather
    stations: tuple[float, ...]

    @classmethod
    def sample(cls, set_seed: int, number: int, only: Style | None = None) -> StreetPlan:
        rng = np.random.default_rng([set_seed, number, 0xF8A3E])
        seed = int(rng.integers(1 << 31))
        mixed = STYLES[rng.choice(len(STYLES), p=STYLE_SHARES)]
        stations = tuple(float(50.0 * view + rng.uniform(0, 15)) for view in range(VIEWS_PER_STREET))
        return cls(seed, only or mixed, sample_weather(rng), stations)

    def layout(self) -> StreetLayout:
        return make_layout(self.seed, self.style, length=320.0, ego_stations=self.stations)


@dataclass(frozen=True)
class FramePlan:
    """Frame ``number`` of the set with ``set_seed``: same plan, same picture."""

    set_seed: int
    number: int
    street: StreetPlan

    @classmethod
    def sample(cls, set_seed: int, number: int, only: Style | None = None) -> FramePlan:
        """A frame of the mixture of styles, or of the ``only`` one."""
        return cls(set_seed, number, StreetPlan.sample(set_seed, number // VIEWS_PER_STREET, only))

    @property
    def name(self) -> str:
        return f"s{self.set_seed}_{self.number:06d}"

    @property
    def shard(self) -> str:
        """A folder holds a thousand frames."""
        return f"{self.number // 1000:03d}"

    def generator(self, purpose: int) -> np.random.Generator:
        """Random numbers of this frame alone; another ``purpose``, other numbers."""
        return np.random.default_rng([self.set_seed, self.number, purpose])

    def view(self, layout: StreetLayout) -> View:
        """Each view has a camera of its own."""
        station = self.street.stations[self.number % VIEWS_PER_STREET]
        return sample_view(layout, station, self.generator(0xCA3))


def depth_counts(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Metres to 16-bit counts; beyond :data:`MAX_DEPTH` and +Inf become 0."""
    known = np.isfinite(depth) & (depth < MAX_DEPTH)
    return np.where(known, np.round(np.where(known, depth, 0) * DEPTH_SCALE), 0).astype(np.uint16)


def write_frame(
    folder: Path, plan: FramePlan, view: View, image: npt.NDArray[np.uint8], depth: npt.NDArray[np.float32]
) -> None:
    """Write image, depth and sky mask, then the index row; a frame counts as done when its row is there."""
    quality = int(plan.generator(0x3FE6).integers(84, 97))
    sky = np.isinf(depth).astype(np.uint8) * 255
    files: dict[str, tuple[str, npt.NDArray[Any], list[int]]] = {
        "image": (".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]),
        "depth": ("_depth.png", depth_counts(depth), []),
        "sky": ("_sky.png", sky, []),
    }
    names = {}
    (folder / plan.shard).mkdir(parents=True, exist_ok=True)
    for key, (suffix, pixels, options) in files.items():
        names[key] = f"{plan.shard}/{plan.name}{suffix}"
        done, encoded = cv2.imencode(Path(names[key]).suffix, pixels, options)
        if not done:
            raise OSError(f"{folder / names[key]}: cannot encode")
        (folder / names[key]).write_bytes(encoded.tobytes())
    row = {
        "split": "train",
        "sequence": f"street_{plan.street.style}_{plan.street.weather.condition}_{plan.name}",
        "camera": "rendered",
        **names,
        "fx": f"{view.focal:.4f}",
        "fy": f"{view.focal:.4f}",
        "cx": f"{view.cx:.4f}",
        "cy": f"{view.cy:.4f}",
        "width": view.width,
        "height": view.height,
        "gt_kind": "dense",
        "licence": LICENCE,
    }
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(row)
    write_whole(row_path(folder, plan), text.getvalue())


def row_path(folder: Path, plan: FramePlan) -> Path:
    return folder / plan.shard / f"{plan.name}.row"


def write_index(folder: Path) -> int:
    """Gather the rows of all finished frames into ``index.csv``, replaced in one step; returns how many."""
    rows = [path.read_text() for path in sorted(folder.glob("*/*.row"))]
    write_whole(folder / "index.csv", ",".join(COLUMNS) + "\n" + "".join(rows))
    return len(rows)

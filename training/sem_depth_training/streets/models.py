"""The 3D models of the streets: Debian's ``sweethome3d-furniture`` (CC0, CC BY), fetched to render, never shipped.

Model frame after loading: x forward (the front of a vehicle), y left, z up, metres, origin on the ground in the middle.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

DEBIAN_PACKAGE = "sweethome3d-furniture"
INSTALLED = Path("/usr/share/sweethome3d/furniture")
LICENCES = {
    "Scopia": "CC BY 3.0",
    "BlendSwap-CC-BY": "CC BY 3.0",
    "BlendSwap-CC-0": "CC0 1.0",
    "KatorLegaz": "CC BY 3.0 US",
    "Reallusion": "CC BY 3.0 US",
}

Kind = Literal["car", "van", "heavy", "tree", "person", "cycle", "furniture", "hedge"]


class ModelError(RuntimeError):
    """A model archive is missing or not as expected."""


@dataclass(frozen=True)
class Model:
    """One model of the package: ``name`` is ``archive/folder``; sizes in metres along its own axes."""

    name: str
    kind: Kind
    length: float
    width: float
    height: float
    author: str
    paint: str = ""  # material that takes the colour of the car
    crown_base: float = 0.0  # trees: share of the height below which only the trunk is

    @property
    def licence(self) -> str:
        return LICENCES[self.name.split("/")[0]]


# Sizes are the package's catalogue, so that a layout needs no download.
MODELS: tuple[Model, ...] = (
    Model("Scopia/renault-scenic", "car", 4.262, 2.127, 1.962, "Scopia", paint="color-beige-green"),
    Model("Scopia/suv", "car", 4.631, 2.091, 1.627, "Scopia", paint="firstcolor"),
    Model("Scopia/peugeot-308", "car", 4.440, 2.100, 1.389, "Scopia", paint="color-exterior"),
    Model("Scopia/seat_leon", "car", 4.195, 1.924, 1.460, "Scopia", paint="chapa_roja"),
    Model("Scopia/smart-car", "car", 2.528, 1.708, 1.546, "Scopia", paint="first-color"),
    Model("BlendSwap-CC-BY/fordFocus", "car", 4.358, 2.045, 1.551, "Ruff", paint="carPaint"),
    Model("KatorLegaz/VW-new-beetle", "car", 4.091, 1.936, 1.545, "Kator Legaz", paint="PAINT_yellow"),
    Model("Scopia/chevrolet", "car", 4.457, 2.1015, 1.211, "Scopia", paint="firstcolor"),
    Model("KatorLegaz/concept-sedan-01v1", "car", 4.711, 1.911, 1.550, "Kator Legaz", paint="Car"),
    Model("KatorLegaz/concept-sedan-01v2", "car", 4.559, 1.849, 1.550, "Kator Legaz", paint="Car"),
    Model("Scopia/van", "van", 5.958, 2.405, 2.565, "Scopia", paint="firstcolor"),
    Model("Scopia/truck", "heavy", 6.300, 2.718, 3.400, "Scopia", paint="red-cabin"),
    Model("Scopia/cityBus", "heavy", 12.192, 3.031, 3.020, "Scopia", paint="accentColor"),
    Model("Scopia/bus", "heavy", 14.043, 2.795, 3.667, "Scopia", paint="firstcolor"),
    Model("BlendSwap-CC-BY/dafTruck", "heavy", 16.536, 3.058, 4.005, "Kartoffelphantom"),
    Model("Scopia/sycamoreMaple", "tree", 10.602, 9.086, 12.0, "Scopia", crown_base=0.22),
    Model("Scopia/poplar", "tree", 3.754, 4.044, 7.3, "Scopia", crown_base=0.33),
    Model("Scopia/pine", "tree", 3.789, 3.745, 5.457, "Scopia", crown_base=0.07),
    Model("Scopia/acacia", "tree", 6.457, 7.708, 6.494, "Scopia", crown_base=0.06),
    Model("Scopia/ficusTree", "tree", 2.839, 2.750, 5.0, "Scopia", crown_base=0.28),
    Model("Scopia/copperBeech", "tree", 7.300, 7.513, 8.0, "Scopia", crown_base=0.13),
    Model("Scopia/cypress", "tree", 1.342, 1.322, 5.6, "Scopia", crown_base=0.07),
    Model("Reallusion/boyStanding", "person", 0.310, 0.569, 1.618, "Reallusion"),
    Model("Reallusion/female01", "person", 0.455, 0.466, 1.655, "Reallusion"),
    Model("Reallusion/female02", "person", 0.452, 0.530, 1.682, "Reallusion"),
    Model("Reallusion/female03", "person", 0.493, 0.520, 1.625, "Reallusion"),
    Model("Reallusion/girlStanding", "person", 0.315, 0.410, 1.561, "Reallusion"),
    Model("Reallusion/male01", "person", 0.404, 0.610, 1.862, "Reallusion"),
    Model("Reallusion/male02", "person", 0.429, 0.806, 1.825, "Reallusion"),
    Model("Reallusion/male03", "person", 0.391, 0.557, 1.840, "Reallusion"),
    Model("KatorLegaz/male-01-suit", "person", 0.413, 0.559, 1.850, "Kator Legaz"),
    Model("KatorLegaz/female-01-casual-clothing", "person", 0.371, 0.475, 1.700, "Kator Legaz"),
    Model("Scopia/bicycle", "cycle", 1.492, 0.460, 0.843, "Scopia"),
    Model("Scopia/scooter2", "cycle", 1.731, 0.764, 1.208, "Scopia"),
    Model("Scopia/yamaha-yzr-r6", "cycle", 2.031, 0.796, 1.148, "Scopia"),
    Model("KatorLegaz/park-trashcan", "furniture", 0.790, 0.790, 0.858, "Kator Legaz"),
    Model("KatorLegaz/residential-trashcan", "furniture", 0.586, 0.586, 0.800, "Kator Legaz"),
    Model("KatorLegaz/fire-hydrant", "furniture", 0.333, 0.414, 0.764, "Kator Legaz"),
    Model("KatorLegaz/painted-bench", "furniture", 0.518, 1.426, 0.800, "Kator Legaz"),
    Model("BlendSwap-CC-0/pedestrianRailing1", "furniture", 0.048, 2.081, 1.039, "Colkaih"),
    Model("Scopia/bush", "furniture", 1.435, 1.516, 1.312, "Scopia"),
    Model("Scopia/hedgeTextured", "hedge", 0.594, 1.547, 1.000, "Scopia"),
)
BY_NAME = {model.name: model for model in MODELS}


def models_of(kind: Kind) -> list[Model]:
    return [model for model in MODELS if model.kind == kind]


def attributions() -> list[str]:
    """One line a model: what it is, who made it, under which licence."""
    return [f"{model.name}: {model.author}, {model.licence} (Debian package {DEBIAN_PACKAGE})" for model in MODELS]


@dataclass(frozen=True)
class Part:
    """Triangles of one material: vertices, normals (n, 3, 3) and texture coordinates (n, 3, 2)."""

    material: str
    vertices: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    uv: npt.NDArray[np.float32]
    colour: tuple[float, float, float]
    opacity: float
    texture: Path | None


def fetch(cache_folder: Path) -> Path:
    """Return a folder with the unpacked model archives, fetching the Debian package if it is not installed.

    Needs no root: ``apt-get download`` and ``dpkg-deb -x``. Raises :class:`ModelError` where that fails.
    """
    unpacked = cache_folder / "models"
    if (unpacked / "complete").exists():
        return unpacked
    source = INSTALLED if INSTALLED.is_dir() else _download(cache_folder)
    for archive in LICENCES:
        path = source / f"{archive}.sh3f"
        if not path.is_file():
            raise ModelError(f"{path} is missing: install the Debian package {DEBIAN_PACKAGE}")
        with zipfile.ZipFile(path) as content:
            content.extractall(unpacked / archive)
    (unpacked / "complete").touch()
    return unpacked


def _download(cache_folder: Path) -> Path:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise ModelError(
            f"{INSTALLED} is missing and there is no apt-get: unpack Debian's {DEBIAN_PACKAGE} package there by hand"
        )
    cache_folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", DEBIAN_PACKAGE], cwd=cache_folder, check=True, capture_output=True)
        package = next(cache_folder.glob(f"{DEBIAN_PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", package.name, "debian"], cwd=cache_folder, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise ModelError(f"cannot fetch {DEBIAN_PACKAGE}: {error.stderr.decode(errors='replace').strip()}") from error
    return cache_folder / "debian" / INSTALLED.relative_to("/")


def load(model: Model, folder: Path) -> list[Part]:
    """Read the model's Wavefront OBJ from the unpacked archives in ``folder``."""
    archive, _, name = model.name.partition("/")
    properties = _catalogue(folder / archive).get(name)
    if properties is None:
        raise ModelError(f"{folder / archive}: the catalogue has no model {name!r}")
    obj = folder / archive / properties["model"].lstrip("/")
    content = _parse_obj(obj)
    vertices, texture_coordinates, normals = content.positions, content.textures, content.normals
    if rotation := properties.get("modelRotation"):
        matrix = np.array([float(value) for value in rotation.split()]).reshape(3, 3)
        vertices, normals = vertices @ matrix.T, normals @ matrix.T
    low, high = vertices.min(0), vertices.max(0)
    scale = np.array([model.width, model.height, model.length]) / np.maximum(high - low, 1e-9)
    vertices = (vertices - np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])) * scale
    # Sweet Home 3D: x right seen from the front, y up, z to the front. Here: x front, y left, z up.
    vertices, normals = vertices[:, [2, 0, 1]], (normals / scale)[:, [2, 0, 1]]
    materials = {
        name: value for library in content.libraries for name, value in _parse_mtl(obj.parent / library).items()
    }
    parts = []
    for material, corners in content.faces.items():
        index = np.array(corners, dtype=np.int64)
        position = vertices[index[..., 0]]
        cross = np.cross(position[:, 1] - position[:, 0], position[:, 2] - position[:, 0])
        area = np.linalg.norm(cross, axis=1)
        index, position, cross = index[area > 1e-10], position[area > 1e-10], cross[area > 1e-10]
        if not len(index):
            continue
        flat = np.repeat((cross / np.linalg.norm(cross, axis=1, keepdims=True))[:, None], 3, 1)
        normal = np.where((index[..., 2] >= 0)[..., None], normals[index[..., 2]], flat) if len(normals) else flat
        normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
        uv = texture_coordinates[index[..., 1]] if len(texture_coordinates) else np.zeros((*index.shape[:2], 2))
        uv = np.where((index[..., 1] >= 0)[..., None], uv, 0.0)
        look = materials.get(material, _Look())
        parts.append(
            Part(
                material,
                position.astype(np.float32),
                normal.astype(np.float32),
                uv.astype(np.float32),
                look.colour,
                look.opacity,
                look.texture,
            )
        )
    return parts


@cache
def _catalogue(archive: Path) -> dict[str, dict[str, str]]:
    text = (archive / "PluginFurnitureCatalog.properties").read_text(encoding="latin1")
    entries: dict[str, dict[str, str]] = defaultdict(dict)
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", text, re.MULTILINE):
        entries[number][key] = value.strip()
    return {entry["model"].split("/")[-2]: entry for entry in entries.values() if "model" in entry}


@dataclass
class _Look:
    colour: tuple[float, float, float] = (0.6, 0.6, 0.6)
    opacity: float = 1.0
    texture: Path | None = None


def _parse_mtl(path: Path) -> dict[str, _Look]:
    looks: dict[str, _Look] = {}
    if not path.is_file():  # some models name a library they do not ship; they are grey there too
        return looks
    look = _Look()
    for line in path.read_text(encoding="latin1").splitlines():
        key, _, rest = line.strip().partition(" ")
        if key == "newmtl":
            look = looks.setdefault(rest.strip(), _Look())
        elif key == "Kd":
            red, green, blue = (float(value) for value in rest.split()[:3])
            look.colour = (red, green, blue)
        elif key == "d":
            look.opacity = float(rest.split()[-1])
        elif key == "map_Kd":
            texture = path.parent / rest.strip().replace("\\", "/").split("/")[-1]
            look.texture = texture if texture.is_file() else None
    return looks


_Faces = dict[str, list[list[tuple[int, int, int]]]]


@dataclass(frozen=True)
class _Obj:
    positions: npt.NDArray[np.float64]
    textures: npt.NDArray[np.float64]
    normals: npt.NDArray[np.float64]
    faces: _Faces
    libraries: list[str]


def _parse_obj(path: Path) -> _Obj:
    positions: list[list[str]] = []
    textures: list[list[str]] = []
    normals: list[list[str]] = []
    faces: _Faces = defaultdict(list)
    libraries: list[str] = []
    material = ""

    def resolve(token: str, count: int) -> int:
        if not token:
            return -1
        number = int(token)
        return number - 1 if number > 0 else count + number

    for line in path.read_text(encoding="latin1").splitlines():
        key, _, rest = line.strip().partition(" ")
        if key == "v":
            positions.append(rest.split()[:3])
        elif key == "vt":
            textures.append(rest.split()[:2])
        elif key == "vn":
            normals.append(rest.split()[:3])
        elif key == "usemtl":
            material = rest.strip()
        elif key == "mtllib":
            libraries.append(rest.strip())
        elif key == "f":
            corners = []
            for token in rest.split():
                v, vt, vn = [*token.split("/"), "", ""][:3]
                corners.append((resolve(v, len(positions)), resolve(vt, len(textures)), resolve(vn, len(normals))))
            faces[material] += [[corners[0], corners[i], corners[i + 1]] for i in range(1, len(corners) - 1)]
    if not faces:
        raise ModelError(f"{path}: no faces")

    def as_array(rows: list[list[str]], width: int) -> npt.NDArray[np.float64]:
        return np.array(rows, dtype=np.float64).reshape(-1, width)

    return _Obj(as_array(positions, 3), as_array(textures, 2), as_array(normals, 3), faces, libraries)

"""Procedural textures of our own: each function draws one square sRGB tile (float, 0..1) from a seed."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
SIZE = 1024


def texture_folder(cache: Path) -> Path:
    """Where drawn tiles are kept: another folder for every version of this file, so that none is ever stale."""
    return cache / f"textures-{sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"


def texture_file(name: str, seed: int, folder: Path) -> Path:
    """Draw the texture once; the file appears complete or not at all."""
    path = folder / f"{name}_{seed}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        image = TEXTURES[name](np.random.default_rng([seed, *name.encode()]))
        pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
        done, encoded = cv2.imencode(".png", pixels[..., ::-1])
        if not done:
            raise OSError(f"{path}: cannot encode the texture")
        temporary = path.with_suffix(f".{np.random.SeedSequence().entropy}.tmp")
        temporary.write_bytes(encoded.tobytes())
        temporary.replace(path)
    return path


def _fractal(rng: np.random.Generator, octaves: tuple[int, ...], fall: float = 0.6, size: int = SIZE) -> Image:
    """Tileable fractal noise, zero mean and unit deviation."""
    total = np.zeros((size, size), np.float32)
    amplitude = 1.0
    for cells in octaves:
        coarse = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 2, mode="wrap")
        scale = size / cells
        fine = cv2.resize(coarse, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        start = int(2 * scale)
        total += amplitude * fine[start : start + size, start : start + size]
        amplitude *= fall
    return np.asarray((total - total.mean()) / total.std(), np.float32)


def _grain(rng: np.random.Generator, size: int = SIZE) -> Image:
    return rng.standard_normal((size, size)).astype(np.float32)


def _tinted(brightness: Image, colour: tuple[float, ...]) -> Image:
    return (brightness[..., None] * np.asarray(colour, np.float32)).astype(np.float32)


def _pick(rng: np.random.Generator, colours: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    return colours[rng.integers(len(colours))]


def asphalt(rng: np.random.Generator) -> Image:
    """8 m of road: stones, stains, cracks."""
    image = rng.uniform(0.32, 0.45) * (1 + 0.05 * _fractal(rng, (2, 4, 8, 16, 32), 0.7) + 0.13 * _grain(rng))
    cracks = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(rng.integers(0, 5)):
        point, heading, line = rng.uniform(0, SIZE, 2), rng.uniform(0, 2 * np.pi), []
        for _ in range(rng.integers(20, 90)):
            heading += rng.normal(0, 0.35)
            point = point + 7 * np.array([np.cos(heading), np.sin(heading)])
            line.append(point)
        cv2.polylines(cracks, [np.array(line, np.int32)], False, 1.0, int(rng.integers(1, 3)), cv2.LINE_AA)
    return _tinted((image * (1 - 0.45 * cracks)).astype(np.float32), (1.0, 1.0, 1 + rng.uniform(-0.05, 0.04)))


def paint(rng: np.random.Generator) -> Image:
    """2 m of worn road paint."""
    wear = np.clip(0.93 + 0.09 * _fractal(rng, (4, 8, 16, 32, 64), 0.8) + 0.05 * _grain(rng), 0.35, 1)
    return _tinted((rng.uniform(0.8, 0.92) * wear).astype(np.float32), (1, 1, 0.98))


def concrete(rng: np.random.Generator) -> Image:
    return _tinted(
        (0.66 * (1 + 0.05 * _fractal(rng, (4, 8, 16, 32, 64)) + 0.05 * _grain(rng))).astype(np.float32), (1, 0.98, 0.95)
    )


def paving(rng: np.random.Generator) -> Image:
    """4 m of slabs."""
    count = int(rng.choice([4, 8, 13, 16]))
    side = np.arange(SIZE) * count // SIZE
    tone = 1 + 0.06 * rng.standard_normal((count, count)).astype(np.float32)
    image = tone[side[:, None], side[None]] * (1 + 0.05 * _fractal(rng, (4, 8, 16, 32)) + 0.05 * _grain(rng))
    joint = (np.arange(SIZE) * count % SIZE) < count * 3
    image[joint] *= 0.68
    image[:, joint] *= 0.68
    return _tinted(image.astype(np.float32), _pick(rng, [(0.62, 0.6, 0.57), (0.52, 0.5, 0.48), (0.66, 0.62, 0.55)]))


def grass(rng: np.random.Generator) -> Image:
    colour = np.array(_pick(rng, [(0.32, 0.37, 0.22), (0.37, 0.39, 0.26), (0.46, 0.44, 0.32)]), np.float32)
    blades = cv2.GaussianBlur(_grain(rng), (1, 9), 1.5) * 2
    brightness = 1 + 0.1 * _fractal(rng, (4, 8, 16, 32)) + 0.2 * blades + 0.1 * _grain(rng)
    dryness = 0.07 * _fractal(rng, (2, 4, 8, 16))[..., None] * np.array([1, 0.4, 0.2], np.float32)
    return np.asarray(brightness[..., None] * colour * (1 + dryness), np.float32)


def plaster(rng: np.random.Generator) -> Image:
    """4 m of rendered wall, nearly white: the material gives the colour."""
    runs = cv2.resize(_fractal(rng, (16, 32, 64), 0.7)[:64], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return _tinted(
        (0.86 * (1 + 0.035 * _fractal(rng, (2, 4, 8, 16)) + 0.02 * runs + 0.03 * _grain(rng))).astype(np.float32),
        (1, 1, 1),
    )


def brick(rng: np.random.Generator) -> Image:
    """3 m of brickwork, 36 courses."""
    colour = _pick(rng, [(0.60, 0.34, 0.26), (0.68, 0.50, 0.38), (0.50, 0.29, 0.24), (0.72, 0.62, 0.5)])
    rows, columns = 36, 12
    y = np.arange(SIZE) * rows / SIZE
    row = y.astype(int)
    x = np.arange(SIZE)[None] * columns / SIZE + (row % 2)[:, None] / 2
    tone = (1 + 0.13 * rng.standard_normal((rows, columns)))[row[:, None], x.astype(int) % columns]
    mortar = ((y % 1)[:, None] < 0.13) | ((x % 1) < 0.045)
    noise = 1 + 0.05 * _fractal(rng, (4, 8, 16, 32)) + 0.05 * _grain(rng)
    wall = np.where(mortar[..., None], np.array([0.68, 0.66, 0.62]), tone[..., None] * np.array(colour))
    return (wall * noise[..., None]).astype(np.float32)


def ashlar(rng: np.random.Generator) -> Image:
    """4 m of stone blocks, 10 courses."""
    rows, columns = 10, 5
    y = np.arange(SIZE) * rows / SIZE
    row = y.astype(int)
    x = np.arange(SIZE)[None] * columns / SIZE + (row % 2)[:, None] / 2
    tone = (1 + 0.05 * rng.standard_normal((rows, columns)))[row[:, None], x.astype(int) % columns]
    joint = ((y % 1)[:, None] < 0.035) | ((x % 1) < 0.018)
    image = np.where(joint, 0.72, tone) * (1 + 0.05 * _fractal(rng, (4, 8, 16, 32, 64)) + 0.03 * _grain(rng))
    return _tinted(image.astype(np.float32), _pick(rng, [(0.76, 0.71, 0.62), (0.68, 0.67, 0.64), (0.72, 0.66, 0.55)]))


def tiles(rng: np.random.Generator) -> Image:
    """2 m of roof tiles."""
    colour = _pick(rng, [(0.62, 0.34, 0.26), (0.34, 0.32, 0.33), (0.5, 0.36, 0.3), (0.27, 0.28, 0.31)])
    rows, columns = 8, 10
    y, x = np.arange(SIZE) * rows / SIZE, np.arange(SIZE) * columns / SIZE
    shifted = x[None] + 0.5 * (y.astype(int) % 2)[:, None]
    tone = (1 + 0.12 * rng.standard_normal((rows, columns)))[y.astype(int)[:, None], shifted.astype(int) % columns]
    shape = (0.7 + 0.35 * (y % 1))[:, None] * (0.8 + 0.2 * np.sin(np.pi * (shifted % 1)))
    return _tinted((tone * shape * (1 + 0.06 * _fractal(rng, (4, 8, 16)))).astype(np.float32), colour)


def hills(rng: np.random.Generator) -> Image:
    wood = 1 + 0.25 * _fractal(rng, (8, 16, 32, 64, 128), 0.8) + 0.1 * _grain(rng)
    return _tinted(wood.astype(np.float32), _pick(rng, [(0.30, 0.36, 0.25), (0.34, 0.37, 0.33), (0.4, 0.4, 0.28)]))


def window(rng: np.random.Generator) -> Image:
    """One pane seen from outside: a dark room, sometimes curtains, a blind or a lamp."""
    size = 256
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    room = (0.12 + 0.08 * y + 0.03 * _fractal(rng, (2, 4, 8), size=size))[..., None] * np.array(
        [1, 0.96, 0.9], np.float32
    )
    kind = rng.integers(5)
    cloth = np.array(
        _pick(rng, [(0.85, 0.82, 0.75), (0.78, 0.78, 0.78), (0.7, 0.6, 0.5), (0.6, 0.65, 0.7)]), np.float32
    )
    if kind in (0, 1):
        folds = (0.75 + 0.12 * np.sin(2 * np.pi * x * rng.uniform(9, 16) + 2 * y))[..., None]
        drawn = np.abs(x - 0.5) > rng.uniform(0.1, 0.35)
        room = np.where(drawn[..., None], cloth * folds, room)
    elif kind == 2:
        slats = (0.7 + 0.15 * np.sign(np.sin(2 * np.pi * y * 24)))[..., None]
        room = np.where((y < rng.uniform(0.2, 0.9))[..., None], cloth * slats, room)
    return np.asarray(room, np.float32)


def shopwindow(rng: np.random.Generator) -> Image:
    """A shop behind glass: shelves and coloured goods in a bright room."""
    size = 512
    y = np.arange(size, dtype=np.float32)[:, None] / size
    image = (0.35 - 0.15 * y)[..., None] * np.array([1, 0.95, 0.85], np.float32) * np.ones((size, size, 1), np.float32)
    for _ in range(rng.integers(15, 60)):
        left, top = rng.integers(0, size, 2)
        width, height = rng.integers(8, 90), rng.integers(10, 120)
        grey = rng.uniform(0.06, 0.5)
        image[top : top + height, left : left + width] = grey * (1 + rng.uniform(-0.35, 0.35, 3))
    image *= (0.75 + 0.25 * _fractal(rng, (2, 4), size=size))[..., None]
    return np.asarray(cv2.GaussianBlur(np.clip(image, 0.02, 0.8).astype(np.float32), (0, 0), 2.0), np.float32)


def shopsign(rng: np.random.Generator) -> Image:
    """A fascia of a shop with an invented name; fills the upper quarter-high band of the tile."""
    image = np.empty((SIZE, SIZE, 3), np.uint8)
    background = np.array(rng.integers(40, 200) + rng.uniform(-45, 45, 3))  # painted board, not neon
    image[:] = background
    pairs = range(rng.integers(2, 5))
    text = "".join(str(rng.choice(list(letters))) for _ in pairs for letters in ("AEIOU", "BDFGKLMNPRSTV"))
    ink = (245, 240, 230) if background.mean() < 130 else (25, 25, 30)
    font = int(rng.choice([cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SIMPLEX]))
    (width, height), _ = cv2.getTextSize(text, font, 10, 24)
    scale = 10 * min(0.8 * SIZE / width, 0.6 * SIZE / height)
    (width, height), _ = cv2.getTextSize(text, font, scale, 24)
    cv2.putText(image, text, ((SIZE - width) // 2, (SIZE + height) // 2), font, scale, ink, 24, cv2.LINE_AA)
    return (image / 255).astype(np.float32)


def sign(rng: np.random.Generator) -> Image:
    """A traffic sign face (drawn from public shapes); which one follows from the seed."""
    size = 256
    image = np.full((size, size, 3), 200, np.uint8)
    red, blue, white, black = (190, 25, 35), (25, 75, 170), (240, 240, 240), (15, 15, 15)
    centre = (size // 2, size // 2)
    kind = rng.integers(4)
    if kind == 0:
        cv2.circle(image, centre, 127, red, -1, cv2.LINE_AA)
        cv2.circle(image, centre, 96, white, -1, cv2.LINE_AA)
        cv2.putText(
            image, str(rng.choice([30, 50, 70])), (56, 166), cv2.FONT_HERSHEY_DUPLEX, 3.4, black, 10, cv2.LINE_AA
        )
    elif kind == 1:
        cv2.circle(image, centre, 127, blue, -1, cv2.LINE_AA)
        cv2.arrowedLine(image, (128, 214), (128, 48), white, 20, cv2.LINE_AA)
    elif kind == 2:
        cv2.circle(image, centre, 127, red, -1, cv2.LINE_AA)
        cv2.circle(image, centre, 98, blue, -1, cv2.LINE_AA)
        cv2.line(image, (56, 56), (200, 200), red, 26, cv2.LINE_AA)
    else:
        cv2.circle(image, centre, 127, blue, -1, cv2.LINE_AA)
        cv2.putText(image, "P", (66, 200), cv2.FONT_HERSHEY_DUPLEX, 6, white, 18, cv2.LINE_AA)
    return (image / 255).astype(np.float32)


def signboard(rng: np.random.Generator) -> Image:
    """A motorway direction board with invented places."""
    image = np.empty((SIZE, SIZE, 3), np.uint8)
    image[:] = _pick(rng, [(25, 75, 160), (20, 110, 70)])
    for row, text in enumerate(rng.permutation(["NORD", "ALTA", "BERGEN 12", "OSTRA", "A 7", "MERIN"])[:3]):
        cv2.putText(image, text, (60, 330 + row * 240), cv2.FONT_HERSHEY_SIMPLEX, 6, (245, 245, 245), 22, cv2.LINE_AA)
    return (image / 255).astype(np.float32)


TEXTURES: dict[str, Callable[[np.random.Generator], Image]] = {
    function.__name__: function
    for function in (
        asphalt,
        paint,
        concrete,
        paving,
        grass,
        plaster,
        brick,
        ashlar,
        tiles,
        hills,
        window,
        shopwindow,
        shopsign,
        sign,
        signboard,
    )
}
